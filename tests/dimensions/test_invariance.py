"""Invariance: hand-worked images, scipy as oracle, pairing, missing probabilities."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from PIL import Image
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from beyond_accuracy.dimensions import invariance as inv
from beyond_accuracy.measure import stats


def said(pred, target, probability=np.nan, probabilities=None):
    """What the module asks of predictions."""
    pred, known = np.asarray(pred), np.broadcast_to(np.asarray(probability, float), len(pred))
    correct = pred == np.asarray(target)
    logits = None if probabilities is None else np.log(probabilities)
    return SimpleNamespace(pred=pred, correct=correct, target_probability=known, logits=logits, columns=None)


def one(**outputs):
    """Steps of model `m`: strength (`s2`) -> outputs."""
    return [inv.Step(float(name[1:].replace("_", ".")), {"m": output}) for name, output in outputs.items()]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50))
def test_js_divergence_equals_scipy(seed, sharpness):
    p, q = softmax(np.random.default_rng(seed).normal(size=(2, 6, 9)) * sharpness, axis=-1)
    p, q = (np.vstack([rows, ends, [np.full(9, 1 / 9)]]) for rows, ends in ((p, np.eye(9)[:1]), (q, np.eye(9)[1:2])))
    expected = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    expected[-1] = 0  # scipy takes the root of a rounding below zero where both are the same
    assert np.allclose(inv.js_divergence(p, q), np.nan_to_num(expected), atol=1e-12)
    assert inv.js_divergence(p, q)[-2:].tolist() == [1.0, 0.0]
    assert inv.js_divergence([[1, 0], [0, 1]], [[0, 1], [0, 1]]).tolist() == [1.0, 0.0]
    logits = [SimpleNamespace(logits=np.log(np.maximum(x, 1e-30)), columns=None) for x in (p, q)]
    assert np.allclose(inv.moved(logits[0], [logits[1]]), [np.nan_to_num(expected)], atol=1e-6)


def test_per_image_by_hand():
    target = [0, 1, 2, 3]
    plain, before = said([0, 1, 0, 3], target, [0.9, 0.8, 0.1, 0.7]), said([0, 2, 0, 3], target)
    values = inv.per_image(plain, said([0, 2, 2, 1], target, [0.6, 0.3, 0.5, 0.2]), before)
    expected = {
        "accuracy": [100, 0, 100, 0], "accuracy_change": [0, -100, 100, -100], "agreement": [1, 0, 0, 0],
        "flip_rate": [0, 0, 1, 1], "agreement_given_correct": [1, 0, np.nan, 0],
        "target_probability": [0.6, 0.3, 0.5, 0.2], "target_probability_change": [-0.3, -0.5, 0.4, -0.5],
    }  # fmt: skip
    assert set(values) == set(expected)
    for kind, numbers in expected.items():
        assert values[kind] == pytest.approx(np.array(numbers), nan_ok=True), kind
    unknown = set(inv.per_image(before, before, before))  # left out, not zero
    assert unknown == {"accuracy", "accuracy_change", "agreement", "agreement_given_correct", "flip_rate"}


def ladder(n=400, seed=0):
    """A model that answers at random more often the stronger the transform; classes 0..4."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 5, n)

    def at(share):
        pred = np.where(rng.random(n) < share, rng.integers(0, 5, n), target)
        probabilities = softmax(3.0 * (np.arange(5) == pred[:, None]), axis=1)
        return said(pred, target, probabilities[np.arange(n), target], probabilities)

    return at(0.2), [at(0.2), at(0.4), at(0.8)]


def test_curve():
    plain, (weak, middle, strong) = ladder()
    steps = one(s1=plain, s1_5=weak, s2=middle, s3=strong)
    rows = inv.curve("scale", {"m": plain}, steps, 1, 400, 0).set_index(["kind", "strength"])
    assert set(rows.index.levels[0]) == set(inv.KINDS)
    identity, strongest = rows.xs(1, level="strength"), rows.xs(3, level="strength")
    at_rest = {"agreement": 1, "js_divergence": 0, "accuracy_change": 0, "accuracy": 100 * plain.correct.mean()}
    assert identity.value[list(at_rest)].to_dict() == pytest.approx(at_rest)
    compared = [kind for kind in inv.KINDS if kind not in inv.ABSOLUTE]  # with the same run: known, not estimated
    assert identity.loc[compared, ["ci_low", "ci_high"]].isna().all(axis=None)
    inside = rows.drop(index=[(kind, 1.0) for kind in compared])
    assert (inside.ci_low <= inside.value).all() and (inside.value <= inside.ci_high).all()
    kept = strong.pred == plain.pred
    moved = {"agreement": kept.mean(), "agreement_given_correct": kept[plain.correct].mean()}
    moved["flip_rate"] = (strong.pred != middle.pred).mean()
    assert strongest.value[list(moved)].to_dict() == pytest.approx(moved)
    assert strongest.loc["agreement_given_correct", "n"] == plain.correct.sum()
    assert rows.loc[("accuracy", 1.5), "metric"] == "accuracy:scale=1.5"
    assert (rows.unit == rows.index.get_level_values("kind").map(inv.KINDS)).all()


def test_change_intervals_are_paired():
    """The same 10 % of images break: the change is far better known than two independent accuracies would allow."""
    order, target = np.arange(1000), np.arange(1000) % 2
    plain, changed = (said(np.where(order % 10 < right, target, 2), target) for right in (5, 4))
    row = inv.curve("scale", {"m": plain}, one(s2=changed), None, 2000, 0).set_index("kind")
    width = row["ci_high"] - row["ci_low"]
    assert row.loc["accuracy_change", "value"] == -10 and width["accuracy_change"] < 0.65 * width["accuracy"]


def test_never_right_before_leaves_agreement_given_correct_missing():
    wrong = said([1, 1], [0, 0])
    kinds = set(inv.curve("scale", {"m": wrong}, one(s2=wrong), None, 20, 0).kind)
    assert "agreement_given_correct" not in kinds and "agreement" in kinds


def test_no_share_is_certain():
    """Mirroring changes no answer of 50: no resample does, and yet 7 % of other images might."""
    target = np.arange(50) % 4
    same = said(np.where(np.arange(50) < 40, target, 5), target)
    rows = inv.curve("hflip", {"m": same}, one(s1=same), 0, 100, 0).set_index("kind")
    for kind, n in (("agreement", 50), ("agreement_given_correct", 40)):
        assert rows.loc[kind, ["value", "ci_low", "ci_high"]].tolist() == pytest.approx([1, *stats.wilson(n, n)])
    assert rows.loc["flip_rate", ["ci_low", "ci_high"]].tolist() == pytest.approx(stats.wilson(0, 50))
    low, high = rows.loc["accuracy_change", ["ci_low", "ci_high"]]
    assert low == pytest.approx(-high) and low < -5
    row = inv.agreement({"hflip": inv.answers_kept({"m": same}, one(s1=same), 0)}, 0, 20)[0].iloc[0]
    assert (row.ci_low, row.ci_high) == pytest.approx(stats.wilson(50, 50))


def test_mean_agreement_counts_images_not_their_versions():
    """Images that keep all of 8 answers or none."""
    keeps = np.repeat((np.arange(60) < 45)[:, None], 8, axis=1)
    row = inv.agreement({"scale": {"m": keeps}}, 0, 20)[0].iloc[0]
    low, high = stats.wilson(45, 60)
    assert row.n == 60 and row.ci_low < low < high < row.ci_high
    assert row.ci_high - row.ci_low == pytest.approx(high - low, rel=0.05)


def test_overall_agreement_is_compared_over_the_same_images():
    rng = np.random.default_rng(0)
    ease = {"a": (drawn := rng.random((300, 1))) + 0.1, "b": drawn}
    kept = {name: {m: rng.random((300, k)) < p for m, p in ease.items()} for name, k in (("scale", 6), ("hflip", 1))}
    kept["hflip"]["extra"] = kept["hflip"]["a"]
    _, rows, gaps = inv.agreement(kept, 0, 2000)
    mean = {m: np.mean([kept[name][m].mean() for name in kept]) for m in "ab"}
    assert rows.set_index("model")["value"].to_dict() == pytest.approx(mean) and (rows.metric == "agreement").all()
    gap = gaps.iloc[0]
    assert gap.difference == pytest.approx(mean["a"] - mean["b"])
    assert (gap.n, gap.p_floor) == (300, stats.p_value_floor(2000, 300))
    assert gap.ci_high - gap.ci_low < 0.75 * np.hypot(*(rows.ci_high - rows.ci_low))  # what images share cancels


def test_mean_agreement_leaves_the_identity_out():
    plain, (weak, _, strong) = ladder()
    steps = one(s1=plain, s2=weak, s3=strong)
    expected = np.mean([(o.pred == plain.pred).mean() for o in (weak, strong)])
    for at, value in ((1, expected), (None, (1 + 2 * expected) / 3)):
        row = inv.agreement({"scale": inv.answers_kept({"m": plain}, steps, at)}, 0, 20)[0].iloc[0]
        assert (row.metric, row.n, row.value) == ("agreement:scale", 400, pytest.approx(value))


def test_gaps_between_models_at_every_strength():
    plain, (weak, middle, strong) = ladder()
    steps = [inv.Step(1, {"a": plain, "b": weak}), inv.Step(3, {"a": middle, "b": strong})]
    gaps = inv.accuracy_gaps("scale", steps, None)
    assert gaps.metric.tolist() == ["accuracy:scale=1", "accuracy:scale=3"]
    assert gaps.difference[1] == pytest.approx(100 * (middle.correct.mean() - strong.correct.mean()))
    # the identity is the clean run, which is compared elsewhere
    assert inv.accuracy_gaps("scale", steps, 1).metric.tolist() == ["accuracy:scale=3"]


def test_the_plain_run_is_recorded_once():
    plain, outputs = ladder()
    steps = {"scale": one(s1=plain, s3=outputs[0]), "shift": one(s0=plain, s3=outputs[0])}
    rows = inv.recorded(
        pd.concat([inv.curve(name, {"m": plain}, step, step[0].strength, 50, 0) for name, step in steps.items()])
    )
    assert not rows.duplicated(["metric", "model"]).any() and len(rows) == 2 + 2 * len(inv.KINDS)
    once = rows[~rows.metric.str.contains(":")].set_index("metric")["value"]
    expected = {"accuracy": 100 * plain.correct.mean(), "target_probability": plain.target_probability.mean()}
    assert once.to_dict() == pytest.approx(expected)


class Page:
    """A page on which `own` sees transforms and `imported` does not."""

    resamples, seed, labels = 50, 0, {"own": "Own"}

    def __init__(self, **roles):
        self.plain, self.has_role, self.role = ladder()[0], roles.__contains__, roles.get

    def predictions(self, dataset):
        return {"own": self.plain, "imported": self.plain}

    def predictions_many(self, dataset, texts):
        return {t: self.predictions("") if t == "none" else {"own": ladder(seed=len(t))[1][1]} for t in texts}


def test_imported_models_are_left_out_where_images_are_transformed():
    page = Page(transforms=["scale", "shift@paper", "jpeg"])
    kinds = inv.kinds_of(page)
    assert kinds == {"scale": "scale", "shift@paper": "shift", "jpeg": "jpeg"} and len(inv.kinds_of(Page())) == 9
    curves, gaps, kept = inv.measure(page, "d", kinds)
    assert set(curves.model) == {"own"} and gaps.empty and list(kept) == ["scale", "shift", "jpeg"]
    assert set(inv.ladder(curves, "accuracy", True).panel) == {"zoom factor", "shift (pixels)"}
    assert set(inv.ladder(curves, "agreement", False).panel) == {"JPEG quality"}
    last = inv.strongest(curves)
    assert set(last["transform"]) == {"scale 3", "shift 100", "JPEG 10"} and set(last["metric"]) == set(inv.STRONGEST)
    _, rows, none = inv.agreement(kept, 0, 100)
    assert rows.model.tolist() == ["own"] and none.empty


def test_ladders_are_pictured():
    image = Image.new("RGB", (60, 80), (9, 99, 199))
    fig, alt = inv.pictured(image, inv.strengths({"scale": "scale", "hflip": "hflip", "shift@paper": "shift"}), 48, "a")
    assert [len(ax.images) for ax in fig.axes] == [1] * 5 + [1, 1, 0, 0, 0] and alt.endswith("scale, mirrored.")
    plt.close(fig)


def test_a_model_without_outputs_at_one_strength_has_no_value_there_and_all_others():
    answers = {"none": [0, 1], "resolution=112": [0, 0], "resolution=336": [0, 1], "resolution=512": [1, 1]}
    answers["resolution=640"] = [1, 0]
    runs = {text: {"a": said(p, [0, 1]), "b": said(p, [0, 1])} for text, p in answers.items()}
    del runs["resolution=112"]["b"], runs["resolution=512"]["b"]
    page = SimpleNamespace(resamples=50, seed=0, predictions_many=lambda _, texts: {text: runs[text] for text in texts})
    page.predictions = lambda _: runs["none"] | {"imported": said([0, 1], [0, 1])}
    curves, gaps, kept = inv.measure(page, "d", {"resolution": "resolution"})
    at = curves[curves["kind"] == "accuracy"].pivot(index="strength", columns="model", values="value")
    assert at["a"].tolist() == [50, 100, 100, 50, 0]  # 112, 224 (as trained), 336, 512, 640
    assert at["b"].isna().tolist() == [True, False, False, True, False] and "imported" not in at
    flips = curves[curves["kind"] == "flip_rate"].set_index(["model", "strength"])["value"]
    assert flips["a", 640] == 0.5 and ("b", 640) not in flips  # nothing one strength earlier to flip from
    assert gaps["metric"].tolist() == ["accuracy:resolution=336", "accuracy:resolution=640"]
    # the mean over strengths is one over 336 and 640 for both
    assert {m: k.tolist() for m, k in kept["resolution"].items()} == dict.fromkeys("ab", [[True, False], [True, False]])
