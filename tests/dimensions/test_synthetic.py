"""Factor sweeps: PUG's mapping and its collision, accuracies by hand, intervals over scenes, sensitivity, chance."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit
from scipy.stats import binom, norm, ttest_rel

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.data.readers.stimuli import UNTOLD, pug_classes
from beyond_accuracy.dimensions import synthetic as syn
from beyond_accuracy.measure import verdicts
from beyond_accuracy.show import theme

# The quirk of the published mapping, in small: one index in two classes, the later name taking it.
CLASSES = {"Goldfish": [1], "Shirt": [841], "Sweatshirt": [841], "Wolf": [269, 270]}


def test_official_rule_gives_the_shared_index_to_the_later_name():
    names = ["Shirt", "Sweatshirt", "Wolf", "Goldfish"]
    assert syn.pug_correct([841, 841, 270, 269], names, CLASSES).tolist() == [False, True, True, False]
    assert syn.pug_correct([841, 841, 270, 269], names, CLASSES, "membership").tolist() == [True, True, True, False]
    assert syn.unreachable(CLASSES) == ["Shirt"]


def test_official_rule_equals_the_authors_loop():
    rng = np.random.default_rng(0)
    names, pred = rng.choice(list(CLASSES), 300), rng.choice([1, 269, 270, 841, 5], 300)
    inverse = {index: rank for rank, name in enumerate(sorted(CLASSES)) for index in CLASSES[name]}
    slow = [inverse.get(p, 999) == sorted(CLASSES).index(name) for p, name in zip(pred, names, strict=True)]
    assert syn.pug_correct(pred, names, CLASSES).tolist() == slow


def test_unknown_rule():
    with pytest.raises(ValueError, match="'official' or 'membership'"):
        syn.pug_correct([1], ["Wolf"], CLASSES, "strict")


def test_mapping_file_is_read_and_checked(tmp_path):
    path = tmp_path / "class_to_imagenet_idx.json"
    with pytest.raises(DataMissing, match="facebookresearch/PUG"):
        pug_classes(path)
    path.write_text(json.dumps({"Wolf": [269, 270], "Brocolli": [937]}))
    assert list(pug_classes(path).items()) == [("Brocolli", [937]), ("Wolf", [269, 270])]
    faults = {"[1, 2]": "JSON object", "{": "JSON object", '{"A": []}': "class A", "{}": "the file"}
    for content, says in (faults | {'{"A": [1000]}': "0..999"}).items():
        path.write_text(content)
        with pytest.raises(InputError, match=says):
            pug_classes(path)


def runs(pred, **fields):
    return {"m": SimpleNamespace(ids=["a", "b", "c"], pred=pred, **fields)}


def test_runs_with_several_labels_are_scored_against_the_mapping_of_the_images():
    images = pd.DataFrame({"class_name": ["Sweatshirt", "Shirt", "Wolf"], "factor": "worlds"}, index=["a", "b", "c"])
    given = runs([841, 841, 270], multilabel=True, targets=[[841], [841], [269, 270]])
    for rule, right in (("official", [True, False, True]), ("membership", [True, True, True])):
        found = syn.sweeps_of(given, images, rule)
        assert found.correct["m"].tolist() == right and found.classes["Wolf"] == [269, 270]
    table = syn.by_rule(given, found)
    assert table.iloc[0].tolist() == ["m", pytest.approx(200 / 3), 100]
    untold = syn.sweeps_of(given, images.assign(factor=["worlds", UNTOLD, "worlds"]), "official")
    assert untold.correct["m"].tolist() == [True, True] and untold.images.index.tolist() == ["a", "c"]
    assert syn.by_rule(given, untold).iloc[0].tolist() == ["m", 100, 100]
    plain = syn.sweeps_of(runs([1], multilabel=False, correct=[True, False, True]), images, "official")
    assert plain.correct["m"] == [True, False, True] and not plain.classes and syn.by_rule({}, plain).empty


def test_usual_ranges_of_ordinary_images():
    metadata = pd.DataFrame({"scale": np.linspace(0, 1, 101), "camera_yaw": 0.0, "background": "sea"})
    ranges = syn.usual_ranges(metadata, ["object_scale", "camera_yaw", "scene_light", "background"])
    assert ranges == {"object_scale": pytest.approx((0.05, 0.95)), "camera_yaw": (0.0, 0.0)}


def sweep(scenes=60, seed=0, effect=0.5):
    """Two factors of three levels over the same scenes; `light` hurts at its last level, `yaw` does nothing."""
    names = [("yaw", level) for level in ("0", "45", "90")] + [("light", level) for level in ("bright", "mid", "dark")]
    rows = [(f"scene{s}", *name) for s in range(scenes) for name in names]
    frame = pd.DataFrame(rows, columns=["cluster", "factor", "level"])
    return frame.assign(
        right=np.random.default_rng(seed).random(len(frame)) < 0.8 - effect * (frame["level"] == "dark")
    )


def outcomes(factor, level, scene, **correct):
    return syn.Sweeps(correct, pd.DataFrame({"factor": factor, "level": level, "cluster": scene}))


FRAME = sweep()
ONE = syn.Sweeps({"m": FRAME.right}, FRAME)


def test_factors_by_hand():
    table, _ = syn.by_factor(ONE)
    value = table.set_index("metric").value
    for name, part in FRAME.groupby("factor"):
        assert value[f"accuracy:{name}"] == pytest.approx(100 * part.right.mean())
    assert value["accuracy:average"] == pytest.approx((value["accuracy:yaw"] + value["accuracy:light"]) / 2)
    assert ((table.ci_low < table.value) & (table.value < table.ci_high)).all()
    assert table.n.tolist() == [60, 60, 60]  # scenes inform, not their images


def test_scenes_are_the_units():
    """All six images of a scene share its fate: the interval is that of 60 scenes, not of 360 images."""
    fate = FRAME.cluster.str[5:].astype(int) % 2 == 0
    row = syn.by_factor(syn.Sweeps({"m": fate}, FRAME))[0].set_index("metric").loc["accuracy:average"]
    assert row.ci_high - row.ci_low == pytest.approx(2 * 1.96 * 50 / np.sqrt(60), rel=0.1)


def test_levels():
    rows = syn.by_level(ONE)
    assert rows.level.tolist() == ["0", "45", "90", "bright", "mid", "dark"]
    dark = rows[rows.metric == "accuracy:light=dark"].iloc[0]
    assert dark.value == pytest.approx(100 * FRAME[FRAME.level == "dark"].right.mean()) and dark.n == 60
    assert (rows.ci_low <= rows.value).all() and (rows.value <= rows.ci_high).all()


def test_sensitivity_tells_an_effect_from_noise():
    row = syn.sensitivity(ONE, 0, 500).set_index("factor").loc["light"]
    levels = FRAME[FRAME.factor == "light"].groupby("level").right.mean() * 100
    assert row["worst_level"] == "dark" and row["range"] > row["range_chance"]
    expected = {"range": np.ptp(levels), "sd": levels.std(ddof=1), "worst": levels.min()}
    assert row[list(expected)].to_dict() == pytest.approx(expected)


def test_chance_range_is_exceeded_as_rarely_as_it_says():
    frames = [sweep(30, seed, effect=0.0) for seed in range(40)]
    rows = pd.concat([syn.sensitivity(syn.Sweeps({"m": f.right}, f), 0, 100) for f in frames])
    assert (rows["range"] > rows.range_chance + 1e-9).mean() < 0.1  # 5 % of 80, with room for its own noise
    assert (rows.p < 0.05).mean() < 0.1


def test_a_range_that_chance_reaches_exactly_is_no_more_than_chance():
    """Two levels and one image that differs: every shuffle gives the same range, whatever its last bits."""
    for scenes in (3, 7, 11, 13, 96):
        level, scene = np.tile(["x", "y"], scenes), np.repeat(np.arange(scenes), 2)
        row = syn.sensitivity(outcomes("f", level, scene, m=np.arange(2 * scenes) > 0), 0, 50).iloc[0]
        assert row.p == 1 and row["range"] == pytest.approx(row.range_chance, abs=1e-9)
    row = syn.sensitivity(outcomes("f", "x", ["a", "b"], m=[True, False]), 0, 10).iloc[0]
    assert row["range"] == row.range_high == row.sd == 0  # of one level


LEVELS, SCENES = 8, 96


def drawn(rng, level, effect, like):
    """Right and wrong of 8 levels x 96 scenes, and the levels' true accuracies in percent; log-odds, scenes alike."""
    odds = level + effect * np.linspace(0, 1, LEVELS)
    truth = expit(odds + like * norm.ppf((np.arange(2000)[:, None] + 0.5) / 2000)).mean(axis=0)
    return rng.random((SCENES, LEVELS)) < expit(odds + like * rng.normal(size=(SCENES, 1))), 100 * truth


@pytest.mark.parametrize("level, effect", [(1.2, 0.0), (1.2, -4.0), (4.5, 0.0)])
def test_intervals_of_the_worst_level_and_of_the_range_cover(level, effect):
    """Best and worst are picked from the data: the bootstrap of the picked covers 0 to 80 % and 41 to 89 %."""
    scene, name, found = np.repeat(np.arange(SCENES), LEVELS), np.tile(np.arange(LEVELS), SCENES), []
    for seed in range(60):
        right, truth = drawn(np.random.default_rng(seed), level, effect, 1.0)
        row = syn.sensitivity(outcomes("f", name, scene, m=right.ravel()), 0, 2).iloc[0]
        found.append((row.worst_low <= truth.min() <= row.worst_high, row.range_low <= np.ptp(truth) <= row.range_high))
        assert row.range_low <= row["range"] <= row.range_high and row.worst_low <= row.worst <= row.worst_high
    assert np.mean(found, axis=0).min() >= 0.9


def test_intervals_of_the_widest_factor_cover_and_the_true_one_is_among_the_named():
    """A factor picked for its range has a range that was lucky, too."""
    scene, name = np.repeat(np.arange(SCENES), LEVELS), np.tile(np.arange(LEVELS), SCENES)
    factor, inside, named = np.repeat(np.arange(4), SCENES * LEVELS), [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parts = [drawn(rng, 1.2, effect, 1.0) for effect in (0.0, -0.8, -1.0, -1.2)]
        right = np.concatenate([right.ravel() for right, _ in parts])
        rows = syn.sensitivity(outcomes(factor, np.tile(name, 4), np.tile(scene, 4), m=right), 0, 2)
        most = rows.loc[rows["range"].idxmax()]
        inside.append(most.range_low <= np.ptp(parts[most.factor][1]) <= most.range_high)
        named.append(3 in set(syn.widest(rows)["factor"]))
    assert np.mean(inside) >= 0.9 and np.mean(named) >= 0.9
    clear = rows.assign(range_low=[0, 5, 50, 70], range_high=[10, 60, 65, 90])
    assert syn.widest(clear)["factor"].tolist() == [3]


@pytest.mark.parametrize("share", [0.97, 0.99])
def test_levels_near_a_hundred_percent_have_intervals_that_cover(share):
    """One image per scene: the bootstrap of 96 right answers has no width and covers .62 where .99 is true."""
    scene, inside = np.arange(SCENES), []
    for hits in range(80, SCENES + 1):
        row = syn.by_level(outcomes("f", "x", scene, m=scene < hits)).iloc[0]
        assert row.ci_high - row.ci_low > 3 and row.n == SCENES
        inside.append((row.ci_low <= 100 * share <= row.ci_high) * binom.pmf(hits, SCENES, share))
    assert sum(inside) >= 0.92


def test_the_mean_of_factors_is_a_paired_t_test_of_the_scenes():
    """A percentile bootstrap of few scenes rejects too often: .068 to .10 instead of .05."""
    other = FRAME.assign(right=np.random.default_rng(5).random(len(FRAME)) < 0.7)
    _, gaps = syn.by_factor(syn.Sweeps({"a": FRAME.right, "b": other.right}, FRAME))
    scenes = [f.astype({"right": float}).groupby("cluster").right.mean() for f in (FRAME, other)]
    expected = ttest_rel(*scenes)
    row = gaps.set_index("metric").loc["accuracy:average"]
    assert row.p == pytest.approx(expected.pvalue) and row.n == 60
    low, high = expected.confidence_interval()
    assert (row.ci_low, row.ci_high) == pytest.approx((100 * low, 100 * high))


def test_equal_models_tie_whatever_the_order_of_their_errors():
    """In each scene both are right at two of three levels, though not the same: no difference, rounding or not."""
    a, b = np.tile([True, True, False], 7), np.tile([False, True, True], 7)
    _, gaps = syn.by_factor(outcomes("f", "x", np.repeat(np.arange(7), 3), a=a, b=b))
    assert (gaps.p == 1).all() and (gaps.difference.abs() < 1e-9).all()


def test_failures_are_at_the_hardest_level_and_missed_by_most():
    frame = sweep().rename(index=str)
    light = syn.pick_failures(syn.Sweeps({"a": frame.right, "b": frame.right}, frame), 6, 0).iloc[0]
    chosen = frame.loc[light.id]  # the hardest level of all comes first
    assert light.factor == "light" and light.level == chosen.level == "dark"
    assert not chosen.right and light.missed_by == 2
    assert syn.pick_failures(syn.Sweeps({"a": np.ones(len(frame), bool)}, frame), 6, 0).empty


def test_ranges_are_compared_with_chance_and_findings_follow_the_verdicts():
    """A range of the factor that does nothing stays open, whatever its interval; equal models tie."""
    frame = sweep(scenes=96)
    sweeps = syn.Sweeps({"a": frame.right, "b": frame.right}, frame)
    rows, gaps = syn.by_factor(sweeps)
    effects = syn.sensitivity(sweeps, 0, 500)
    asked = pd.concat([gaps, syn.against_chance(effects)]).assign(dataset="d")
    judged = verdicts.judge(asked.reset_index(drop=True))
    assert len(judged) == 3 + 4 and (judged[judged.metric == "accuracy:average"].family == "main").all()
    effects = syn.judged_effects(effects, judged)
    assert (effects.set_index("factor").verdict == verdicts.OPEN).to_dict() == {"yaw": True, "light": False}
    bounds = effects.dropna(subset="p_holm_floor")  # no shuffle reached the range: p is known as a bound only
    assert set(bounds["factor"]) == {"light"} and (bounds["p_holm"] == bounds["p_holm_floor"]).all()
    assert "2 of 4 model and factor" in syn.range_sentence(effects) and "light" in syn.range_sentence(effects)
    page = SimpleNamespace(labels={"a": "A", "b": "B"}, leader=lambda *_: "A and B tie")
    sentence = syn.mean_sentence(page, rows, judged)
    assert "over 2 factors" in sentence and sentence.endswith("A and B tie; the two are not told apart.")
    wide, noise = syn.widest_first(syn.effect_rows(effects))
    assert wide["factor"].tolist() == ["light", "light", "yaw", "yaw"] and len(noise) == 4


def test_levels_in_order_are_curves_and_others_are_cut_to_the_hardest():
    frame = pd.DataFrame({"factor": "worlds", "level": [f"w{i:02d}" for i in range(30)], "model": "a"})
    frame = frame.assign(value=np.arange(30.0), level_value=np.nan)
    yaw = frame.assign(factor="yaw", level_value=frame.value)
    curve = pd.concat([frame, yaw], ignore_index=True)
    assert set(syn.numeric(curve)["factor"]) == {"yaw"}
    assert syn.unordered(curve)["worlds"]["level"].tolist() == [f"w{i:02d}" for i in range(23, -1, -1)]


@pytest.mark.parametrize("angles, points", [([-135, -90, -45, 0, 45, 90, 135, 180], 9), ([0, 45, 90], 3)])
def test_angles_close_round_the_circle_only(angles, points):
    look = theme.style(SimpleNamespace(name="a", label="A", family="", paradigm=""))
    curve = pd.DataFrame({"factor": "object_yaw", "model": "a", "level_value": angles, "value": 50.0})
    fig, words = syn.polar(curve, {"a": look}, {"object_yaw": (-30.0, 30.0)})
    assert [len(line.get_xdata()) for line in fig.axes[0].lines] == [points] and "object yaw" in words
    plt.close(fig)
