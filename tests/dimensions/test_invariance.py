"""Invariance: hand-worked images, scipy as oracle, pairing, missing probabilities."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Said:
    pred: np.ndarray
    correct: np.ndarray
    target_probability: np.ndarray
    probabilities: np.ndarray | None = None


def said(pred, target, probability=None, probabilities=None):
    pred, target = np.asarray(pred), np.asarray(target)
    probability = np.full(len(pred), np.nan) if probability is None else np.asarray(probability, float)
    return Said(pred, pred == target, probability, probabilities)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50))
def test_js_divergence_equals_scipy(seed, sharpness):
    p, q = softmax(np.random.default_rng(seed).normal(size=(2, 6, 9)) * sharpness, axis=-1)
    expected = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    assert np.allclose(inv.js_divergence(p, q), expected, atol=1e-12)


def test_js_divergence_at_the_ends():
    assert inv.js_divergence([[1, 0, 0]], [[0, 0, 1]]).tolist() == [1.0]
    assert inv.js_divergence([[0.2, 0.8]], [[0.2, 0.8]]).tolist() == [0.0]
    with pytest.raises(ValueError, match="equally shaped"):
        inv.js_divergence([[1.0]], [[0.5, 0.5]])


def test_per_image_by_hand():
    target = [0, 1, 2, 3]
    plain = said([0, 1, 0, 3], target, [0.9, 0.8, 0.1, 0.7])
    before = said([0, 2, 0, 3], target)
    changed = said([0, 2, 2, 1], target, [0.6, 0.3, 0.5, 0.2])
    values = inv.per_image(plain, changed, before)
    assert values["accuracy"].tolist() == [100, 0, 100, 0]
    assert values["accuracy_change"].tolist() == [0, -100, 100, -100]
    assert values["agreement"].tolist() == [1, 0, 0, 0]
    assert values["flip_rate"].tolist() == [0, 0, 1, 1]
    given_correct = values["agreement_given_correct"]
    assert np.isnan(given_correct[2]) and given_correct[[0, 1, 3]].tolist() == [1, 0, 0]
    assert values["target_probability_change"] == pytest.approx([-0.3, -0.5, 0.4, -0.5])
    assert "js_divergence" not in values


def test_unknown_probabilities_are_left_out_not_zero():
    target = [0, 1]
    values = inv.per_image(said([0, 1], target), said([0, 1], target), said([0, 1], target))
    assert set(values) == {"accuracy", "accuracy_change", "agreement", "agreement_given_correct", "flip_rate"}


def test_other_images_are_refused():
    one, two = said([0], [0]), said([0, 1], [0, 1])
    with pytest.raises(ValueError, match="same images"):
        inv.per_image(one, two, one)
    with pytest.raises(ValueError, match="same images"):
        inv.per_image(*(said([], []),) * 3)


def ladder(n=400, seed=0):
    """A model that answers at random more often the stronger the transform; classes 0..4."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 5, n)

    def at(share):
        pred = np.where(rng.random(n) < share, rng.integers(0, 5, n), target)
        logits = 3.0 * (np.arange(5) == pred[:, None])
        probabilities = softmax(logits, axis=1)
        return Said(pred, pred == target, probabilities[np.arange(n), target], probabilities)

    return at(0.2), [at(0.2), at(0.4), at(0.8)]


def test_curve():
    plain, outputs = ladder()
    steps = [inv.Step(1, {"m": plain}), *(inv.Step(s, {"m": o}) for s, o in zip((1.5, 2, 3), outputs, strict=True))]
    rows = inv.curve("scale", {"m": plain}, steps, 1, 400, 0).set_index(["kind", "strength"])
    assert set(rows.reset_index().kind) == set(inv.KINDS)
    identity = rows.xs(1, level="strength")
    assert identity.loc["agreement", "value"] == 1 and identity.loc["js_divergence", "value"] == 0
    assert identity.loc["accuracy_change", "value"] == 0
    compared = [kind for kind in inv.KINDS if kind not in inv.ABSOLUTE]  # with the same run: known, not estimated
    assert identity.loc[compared, ["ci_low", "ci_high"]].isna().all(axis=None)
    assert rows.drop(1, level="strength")[["ci_low", "ci_high"]].notna().all(axis=None)
    assert identity.loc["accuracy", "value"] == pytest.approx(100 * plain.correct.mean())
    strongest = rows.xs(3, level="strength")
    assert strongest.loc["agreement", "value"] == pytest.approx((outputs[2].pred == plain.pred).mean())
    kept = outputs[2].pred[plain.correct] == plain.pred[plain.correct]
    assert strongest.loc["agreement_given_correct", "value"] == pytest.approx(kept.mean())
    assert strongest.loc["agreement_given_correct", "n"] == plain.correct.sum()
    assert strongest.loc["flip_rate", "value"] == pytest.approx((outputs[2].pred != outputs[1].pred).mean())
    inside = rows.dropna(subset=["ci_low"])
    assert (inside.ci_low <= inside.value).all() and (inside.value <= inside.ci_high).all()
    assert rows.loc[("accuracy", 1.5), "metric"] == "accuracy:scale=1.5"
    assert (rows.unit == rows.index.get_level_values("kind").map(inv.KINDS)).all()


def test_change_intervals_are_paired():
    """The same 10 % of images break: the change is far better known than two independent accuracies would allow."""
    n = 1000
    target = np.arange(n) % 2
    plain = said(np.where(np.arange(n) % 10 < 5, target, 2), target)
    changed = said(np.where(np.arange(n) % 10 < 4, target, 2), target)
    row = inv.curve("scale", {"m": plain}, [inv.Step(2, {"m": changed})], None, 2000, 0).set_index("kind")
    change, accuracy = row.loc["accuracy_change"], row.loc["accuracy"]
    assert change.value == -10
    assert change.ci_high - change.ci_low < 0.65 * (accuracy.ci_high - accuracy.ci_low)


def test_never_right_before_leaves_agreement_given_correct_missing():
    wrong = said([1, 1], [0, 0])
    rows = inv.curve("scale", {"m": wrong}, [inv.Step(2, {"m": wrong})], None, 20, 0)
    assert "agreement_given_correct" not in set(rows.kind) and "agreement" in set(rows.kind)


def test_no_share_is_certain():
    """Mirroring changes no answer of 50: no resample does, and yet 7 % of other images might."""
    target = np.arange(50) % 4
    same = said(np.where(np.arange(50) < 40, target, 5), target)
    rows = inv.curve("hflip", {"m": same}, [inv.Step(1, {"m": same})], 0, 100, 0).set_index("kind")
    for kind, n in (("agreement", 50), ("agreement_given_correct", 40)):
        assert rows.loc[kind, ["value", "ci_low", "ci_high"]].tolist() == pytest.approx([1, *stats.wilson(n, n)])
    assert rows.loc["flip_rate", ["ci_low", "ci_high"]].tolist() == pytest.approx(stats.wilson(0, 50))
    assert rows.loc["accuracy_change", "ci_low"] == -rows.loc["accuracy_change", "ci_high"] < -5
    row = inv.mean_agreement("hflip", inv.answers_kept({"m": same}, [inv.Step(1, {"m": same})], 0)).iloc[0]
    assert (row.ci_low, row.ci_high) == pytest.approx(stats.wilson(50, 50))


def test_mean_agreement_counts_images_not_their_versions():
    """Images that keep all of 8 answers or none."""
    keeps = np.repeat((np.arange(60) < 45)[:, None], 8, axis=1)
    row = inv.mean_agreement("scale", {"m": keeps}).iloc[0]
    low, high = stats.wilson(45, 60)
    assert row.n == 60 and row.ci_low < low < high < row.ci_high
    assert row.ci_high - row.ci_low == pytest.approx(high - low, rel=0.05)


def test_overall_agreement_is_compared_over_the_same_images():
    rng = np.random.default_rng(0)
    ease = rng.random(300)
    kept = {
        name: {m: rng.random((300, k)) < np.clip(ease[:, None] + lead, 0, 1) for m, lead in (("a", 0.1), ("b", 0.0))}
        for name, k in (("scale", 6), ("hflip", 1))
    }
    kept["hflip"]["extra"] = kept["hflip"]["a"]
    rows, gaps = inv.overall_agreement(kept, 0, 2000)
    mean = {m: np.mean([kept[name][m].mean() for name in kept]) for m in "ab"}
    assert rows.set_index("model")["value"].to_dict() == pytest.approx(mean) and (rows.metric == "agreement").all()
    gap = gaps.iloc[0]
    assert (gap.difference, gap.n, gap.p_floor) == (
        pytest.approx(mean["a"] - mean["b"]),
        300,
        stats.p_value_floor(2000, 300),
    )
    assert gap.ci_high - gap.ci_low < 0.75 * np.hypot(*(rows.ci_high - rows.ci_low))  # what images share cancels


def test_mean_agreement_leaves_the_identity_out():
    plain, outputs = ladder()
    steps = [inv.Step(1, {"m": plain}), inv.Step(2, {"m": outputs[0]}), inv.Step(3, {"m": outputs[2]})]
    expected = np.mean([(o.pred == plain.pred).mean() for o in (outputs[0], outputs[2])])
    row = inv.mean_agreement("scale", inv.answers_kept({"m": plain}, steps, 1)).iloc[0]
    assert row.metric == "agreement:scale" and row.value == pytest.approx(expected) and row.n == 400
    assert row.ci_low < row.value < row.ci_high
    everything = inv.mean_agreement("scale", inv.answers_kept({"m": plain}, steps, None)).iloc[0]
    assert everything.value == pytest.approx((1 + 2 * expected) / 3)


def test_gaps_between_models_at_every_strength():
    plain, outputs = ladder()
    steps = [inv.Step(1, {"a": plain, "b": outputs[0]}), inv.Step(3, {"a": outputs[1], "b": outputs[2]})]
    gaps = inv.accuracy_gaps("scale", steps, None)
    assert gaps.metric.tolist() == ["accuracy:scale=1", "accuracy:scale=3"]
    assert gaps.difference[1] == pytest.approx(100 * (outputs[1].correct.mean() - outputs[2].correct.mean()))
    # the identity is the clean run, which is compared elsewhere
    assert inv.accuracy_gaps("scale", steps, 1).metric.tolist() == ["accuracy:scale=3"]


def test_the_plain_run_is_recorded_once():
    plain, outputs = ladder()
    curves = [
        inv.curve(name, {"m": plain}, [inv.Step(at, {"m": plain}), inv.Step(3, {"m": outputs[0]})], at, 50, 0)
        for name, at in (("scale", 1), ("shift", 0))
    ]
    rows = inv.recorded(pd.concat(curves))
    assert not rows.duplicated(["metric", "model"]).any() and len(rows) == 2 + 2 * len(inv.KINDS)
    once = rows[~rows.metric.str.contains(":")].set_index("metric")["value"]
    assert once.to_dict() == pytest.approx(
        {"accuracy": 100 * plain.correct.mean(), "target_probability": plain.target_probability.mean()}
    )


class Page:
    """A page on which `own` sees transforms and `imported` does not."""

    resamples, seed, labels = 50, 0, {"own": "Own"}

    def __init__(self, transforms=None):
        self.roles, self.plain = {} if transforms is None else {"transforms": transforms}, ladder()[0]

    def has_role(self, role):
        return role in self.roles

    def role(self, role):
        return self.roles[role]

    def predictions(self, dataset):
        return {"own": self.plain, "imported": self.plain}

    def predictions_many(self, dataset, texts):
        return {t: self.predictions("") if t == "none" else {"own": ladder(seed=len(t))[1][1]} for t in texts}


def test_imported_models_are_left_out_where_images_are_transformed():
    page = Page(["scale", "shift@paper", "jpeg"])
    kinds = inv.kinds_of(page)
    assert kinds == {"scale": "scale", "shift@paper": "shift", "jpeg": "jpeg"} and len(inv.kinds_of(Page())) == 9
    curves, gaps, kept = inv.measure(page, "d", kinds)
    assert set(curves.model) == {"own"} and gaps.empty and list(kept) == ["scale", "shift", "jpeg"]
    assert set(inv.ladder(curves, "accuracy", True).panel) == {"zoom factor", "shift (pixels)"}
    assert set(inv.ladder(curves, "agreement", False).panel) == {"JPEG quality"}
    last = inv.strongest(curves)
    assert set(last["transform"]) == {"scale 3", "shift 100", "jpeg 10"} and set(last["metric"]) == set(inv.STRONGEST)
    rows, none = inv.overall_agreement(kept, 0, 100)
    assert rows.model.tolist() == ["own"] and none.empty


def test_last_accuracies_are_those_of_the_last_step():
    names = ["accuracy:scale=2", "accuracy:scale=3", "accuracy:jpeg=90", "accuracy:jpeg=10"]
    assert inv.last_accuracies(pd.DataFrame({"metric": names})) == ["accuracy:scale=3", "accuracy:jpeg=10"]


def test_ladders_are_pictured():
    image = Image.new("RGB", (60, 80), (9, 99, 199))
    fig, alt = inv.pictured(image, inv.strengths({"scale": "scale", "hflip": "hflip", "shift@paper": "shift"}), 48, "a")
    assert [len(ax.images) for ax in fig.axes] == [1] * 5 + [1, 1, 0, 0, 0] and alt.endswith("scale, hflip.")
    plt.close(fig)
