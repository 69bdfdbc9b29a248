"""Factor sweeps: PUG's mapping and its collision, accuracies by hand, intervals over scenes, sensitivity, chance."""

import json

import numpy as np
import pandas as pd
import pytest

from beyond_accuracy.benchmarks import pug_classes
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.metrics import synthetic as syn

# The quirk of the published mapping, in small: one index in two classes, the later name taking it.
CLASSES = {"Goldfish": [1], "Shirt": [841], "Sweatshirt": [841], "Wolf": [269, 270]}


def test_official_rule_gives_the_shared_index_to_the_later_name():
    names = ["Shirt", "Sweatshirt", "Wolf", "Goldfish"]
    assert syn.pug_correct([841, 841, 270, 269], names, CLASSES).tolist() == [False, True, True, False]
    assert syn.pug_correct([841, 841, 270, 269], names, CLASSES, "membership").tolist() == [True, True, True, False]
    assert syn.unreachable(CLASSES) == ["Shirt"]


def test_official_rule_equals_the_authors_loop():
    rng = np.random.default_rng(0)
    names = rng.choice(list(CLASSES), 300)
    pred = rng.choice([1, 269, 270, 841, 5], 300)
    inverse = {}
    for rank, name in enumerate(sorted(CLASSES)):
        for index in CLASSES[name]:
            inverse[index] = rank
    slow = [inverse.get(p, 999) == sorted(CLASSES).index(name) for p, name in zip(pred, names, strict=True)]
    assert syn.pug_correct(pred, names, CLASSES).tolist() == slow


def test_unknown_rule_or_class():
    with pytest.raises(ValueError, match="'official' or 'membership'"):
        syn.pug_correct([1], ["Wolf"], CLASSES, "strict")
    with pytest.raises(ValueError, match="'Wolfe' is not in the mapping"):
        syn.pug_correct([1], ["Wolfe"], CLASSES)


def test_mapping_file_is_read_and_checked(tmp_path):
    path = tmp_path / "class_to_imagenet_idx.json"
    with pytest.raises(DataMissing, match="facebookresearch/PUG"):
        pug_classes(path)
    path.write_text(json.dumps({"Wolf": [269, 270], "Brocolli": [937]}))
    assert list(pug_classes(path).items()) == [("Brocolli", [937]), ("Wolf", [269, 270])]
    for content, says in (
        ("[1, 2]", "JSON object"),
        ("{", "JSON object"),
        ('{"A": []}', "class A"),
        ("{}", "the file"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=says):
            pug_classes(path)
    path.write_text('{"A": [1000]}')
    with pytest.raises(InputError, match="0..999"):
        pug_classes(path)


def test_mapping_from_the_images_themselves():
    assert syn.classes_of(["Wolf", "Shirt", "Wolf"], [[269, 270], [841], [269, 270]]) == {
        "Wolf": [269, 270],
        "Shirt": [841],
    }


def test_usual_ranges_of_ordinary_images():
    metadata = pd.DataFrame({"scale": np.linspace(0, 1, 101), "camera_yaw": 0.0, "background": "sea"})
    ranges = syn.usual_ranges(metadata, ["object_scale", "camera_yaw", "scene_light", "background"])
    assert ranges == {"object_scale": pytest.approx((0.05, 0.95)), "camera_yaw": (0.0, 0.0)}


def sweep(scenes=60, seed=0, effect=0.5):
    """Two factors of three levels over the same scenes; `light` hurts at its last level, `yaw` does nothing."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"scene{s}", factor, level, rng.random() < 0.8 - effect * (factor == "light" and level == "dark"))
        for s in range(scenes)
        for factor, levels in (("yaw", ("0", "45", "90")), ("light", ("bright", "mid", "dark")))
        for level in levels
    ]
    return pd.DataFrame(rows, columns=["scene", "factor", "level", "right"])


def test_factor_table_by_hand():
    frame = sweep()
    table, _ = syn.factor_table({"m": frame.right}, frame.factor, frame.scene, 500, 0)
    value = table.set_index("metric").value
    for name, part in frame.groupby("factor"):
        assert value[f"accuracy:{name}"] == pytest.approx(100 * part.right.mean())
    assert value["accuracy:average"] == pytest.approx((value["accuracy:yaw"] + value["accuracy:light"]) / 2)
    assert ((table.ci_low < table.value) & (table.value < table.ci_high)).all()
    assert table.n.tolist() == [180, 180, 360]


def test_differences_share_the_scenes():
    frame = sweep()
    worse = frame.right & (np.arange(len(frame)) % 10 != 0)
    _, gaps = syn.factor_table({"a": frame.right, "b": worse}, frame.factor, frame.scene, 50, 0)
    row = gaps.set_index("metric").loc["accuracy:average"]
    assert row.difference == pytest.approx(100 * (frame.right.mean() - worse.mean()))
    assert 0 < row.ci_low < row.difference < row.ci_high and row.p < 0.01


def test_intervals_resample_scenes():
    """All six images of a scene share its fate: the interval is that of 60 scenes, not of 360 images."""
    frame = sweep()
    fate = frame.scene.map({f"scene{s}": s % 2 == 0 for s in range(60)})
    table, _ = syn.factor_table({"m": fate}, frame.factor, frame.scene, 2000, 0)
    row = table.set_index("metric").loc["accuracy:average"]
    assert row.ci_high - row.ci_low == pytest.approx(2 * 1.96 * 50 / np.sqrt(60), rel=0.1)


def test_level_curve():
    frame = sweep()
    rows = syn.level_curve({"m": frame.right}, frame.factor, frame.level, frame.scene, 300, 0)
    assert rows.level.tolist() == ["0", "45", "90", "bright", "mid", "dark"]
    dark = rows[rows.metric == "accuracy:light=dark"].iloc[0]
    part = frame[(frame.factor == "light") & (frame.level == "dark")]
    assert dark.value == pytest.approx(100 * part.right.mean()) and dark.n == 60
    assert (rows.ci_low <= rows.value).all() and (rows.value <= rows.ci_high).all()


def test_sensitivity_tells_an_effect_from_noise():
    frame = sweep()
    rows = syn.sensitivity({"m": frame.right}, frame.factor, frame.level, frame.scene, 300, 0).set_index("factor")
    assert rows.loc["light", "worst_level"] == "dark"
    assert rows.loc["light", "range"] > rows.loc["light", "range_chance"]
    levels = frame[frame.factor == "light"].groupby("level").right.mean() * 100
    assert rows.loc["light", "range"] == pytest.approx(levels.max() - levels.min())
    assert rows.loc["light", "sd"] == pytest.approx(levels.std(ddof=1))
    assert rows.loc["light", "worst"] == pytest.approx(levels.min())


def test_chance_range_is_exceeded_as_rarely_as_it_says():
    flags = [
        (rows["range"] > rows.range_chance).mean()
        for rows in (
            syn.sensitivity({"m": f.right}, f.factor, f.level, f.scene, 5, 0, permutations=100)
            for f in (sweep(30, seed, effect=0.0) for seed in range(40))
        )
    ]
    assert np.mean(flags) < 0.15  # 5 % of 80, with room for its own noise


def test_a_factor_of_one_level_has_no_range():
    row = syn.sensitivity({"m": [True, False]}, ["f", "f"], ["x", "x"], ["a", "b"], 20, 0, 10).iloc[0]
    assert row["range"] == 0 and row.sd == 0


def test_failures_are_at_the_hardest_level_and_missed_by_most():
    frame = sweep()
    models = {"a": frame.right, "b": frame.right}
    picked = syn.pick_failures(models, frame.factor, frame.level, frame.scene, frame.index.astype(str), 6, 0)
    light = picked.set_index("factor").loc["light"]
    chosen = frame.loc[int(light.id)]
    assert light.level == chosen.level == "dark" and not chosen.right and light.missed_by == 2
    assert picked["factor"].tolist()[0] == "light"  # the hardest level of all comes first
    perfect = {"a": np.ones(len(frame), bool)}
    assert syn.pick_failures(perfect, frame.factor, frame.level, frame.scene, frame.index.astype(str), 6, 0).empty


def test_no_images():
    with pytest.raises(ValueError, match="at least one image"):
        syn.factor_table({"m": []}, [], [], 10, 0)
