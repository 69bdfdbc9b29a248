"""Shape bias: hand-worked cases, the paper's numbers from stored decisions, an independent implementation, edges."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import cohen_kappa_score

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import ASSETS
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.data.download import sources
from beyond_accuracy.data.published import cue_categories, human_shape_bias
from beyond_accuracy.dimensions import shape_bias as sb
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import stats, tidy, verdicts
from beyond_accuracy.page import Page
from beyond_accuracy.show import theme

ENDS = ["ci_low", "ci_high"]
# Per-image decisions from the authors' repository (github.com/kirill-vish/Beyond-INet, MIT licence).
STORED = pd.read_csv(Path(__file__).parents[1] / "data" / "cue_conflict_decisions.csv")
WHOLE = sb.cue_table(STORED.imagename, pd.DataFrame())


def conflicts(shapes, textures, shape_images, texture_images):
    """A cue table of the columns."""
    return pd.DataFrame(dict(zip(sb.Cues._fields, (shapes, textures, shape_images, texture_images), strict=True)))


def test_names_are_read_or_refused():
    assert sb.parse_name("airplane1-bicycle2.png") == ("airplane", "bicycle", "airplane1", "bicycle2")
    assert sb.parse_name("dog/dog10-dog3") == ("dog", "dog", "dog10", "dog3")
    assert sb.parse_name("0002_s5n_s01_0_bird_00_bird2-clock3.png") == ("bird", "clock", "bird2", "clock3")
    for wrong in ("airplane1.png", "airplane1-bicycle.png", "a-b-c.png", ""):
        with pytest.raises(ValueError, match="expected a name like"):
            sb.parse_name(wrong)


def test_sixteen_categories_share_no_class_and_other_spaces_have_their_own():
    categories = cue_categories()
    flat = [index for indices in categories.values() for index in indices]
    assert list(categories) == sorted(categories) and len(categories) == 16
    assert len(flat) == len(set(flat)) == 207 and all(0 <= index < 1000 for index in flat)
    assert {name: len(v) for name, v in categories.items() if len(v) > 8} == {"bird": 49, "dog": 109}
    assert categories["knife"] == [499] and categories["elephant"] == [385, 386]
    assert cue_categories(("mug", "car")) == {"mug": [0], "car": [1]}
    assert cue_categories(tuple(map(str, range(1000)))) == categories


def test_decision_takes_the_mean_not_the_sum_and_the_first_name_of_a_tie():
    probabilities, categories = np.zeros((1, 1000)), cue_categories()
    probabilities[0, categories["dog"]] = 0.5 / 109  # the sum over dogs is larger, the mean is smaller
    probabilities[0, categories["oven"]] = 0.4
    assert sb.decide(probabilities, categories).tolist() == ["oven"]
    assert sb.decide([[0.5, 0.5]], {"zebra": [0], "ant": [1]}).tolist() == ["ant"], "whatever the order of the mapping"


def test_no_decision_for_either_cue_is_missing_not_zero():
    assert np.isnan(sb.shape_bias([False], [False]))
    four = conflicts(["cat", "cat", "dog", "dog"], ["dog", "dog", "cat", "cat"], [0, 1, 2, 3], ["d", "e", "c", "b"])
    table = sb.table({"m": ["bird"] * 4}, four)
    assert set(table.metric) == {"accuracy", "accuracy:either_cue", "accuracy:texture"} and (table.value == 0).all()
    assert sb.differences({"m": ["bird"] * 4, "n": four["shape"]}, four).p.isna().all()


def test_stored_decisions_give_the_published_numbers():
    """Shape hits, texture hits, bias, accuracy of 1,280: recomputed from the paper's stored predictions."""
    published = {
        "convnext_sup": (313, 627, 0.3330, 30.55), "vit_sup": (340, 513, 0.3986, 32.42),
        "vit_clip": (421, 485, 0.4647, 38.98), "convnext_clip": (313, 425, 0.4241, 29.30),
        "resnet50": (170, 621, 0.2149, 18.28),
    }  # fmt: skip
    assert len(WHOLE) == 1280
    table = sb.table({model: STORED[model] for model in published}, WHOLE).set_index(["metric", "model"])
    for model, (shape_hits, texture_hits, bias, accuracy) in published.items():
        by_shape, by_texture = sb.hits(STORED[model], WHOLE["shape"], WHOLE["texture"])
        assert (by_shape.sum(), by_texture.sum()) == (shape_hits, texture_hits)
        row = table.loc["shape_bias", model]
        assert row["value"] == pytest.approx(bias, abs=5e-5) and row["ci_low"] < bias < row["ci_high"]
        assert table.loc[("accuracy", model), "value"] == pytest.approx(accuracy, abs=5e-3)
        either = table.loc[("accuracy:either_cue", model), "value"]
        assert either == pytest.approx((shape_hits + texture_hits) / 12)
        assert row["n"] == 160 and table.loc[("shape_bias:cat", model), "n"] == 10


def test_categories_agree_with_the_papers_figure():
    """240 digitised points; the stored predictions of one model are not those of the figure (see the notes)."""
    paper = pd.read_csv(Path(sb.__file__).parents[1] / "assets" / "paper.csv")
    paper = paper[(paper.dimension == "shape_bias") & (paper.model != "convnext_clip")]
    decisions = {model: STORED[model] for model in paper.model.unique()}
    ours = sb.table(decisions, WHOLE).set_index(["metric", "model"]).value
    for row in paper.itertuples():
        assert ours[row.metric, row.model] == pytest.approx(row.value, abs=row.tolerance), row.metric


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_an_independent_implementation(seed):
    drawn = np.random.default_rng(seed).choice(["cat", "dog", "owl"], (30, 3))
    frame = pd.DataFrame(drawn, columns=["decision", "shape", "texture"])
    conflict = frame[frame["shape"] != frame["texture"]]
    counts = [(conflict.decision == conflict[cue]).mean() for cue in ("shape", "texture")]
    expected = counts[0] / sum(counts) if len(conflict) and sum(counts) else np.nan
    ours = sb.shape_bias(*sb.hits(frame.decision, frame["shape"], frame["texture"]))
    assert ours == pytest.approx(expected, nan_ok=True)


def numbered(table):
    """A cue table whose origins are numbers: quicker to count."""
    return table.assign(**{name: pd.factorize(table[name])[0] for name in ("shape_image", "texture_image")})


# 160 shape x 48 texture images, 1,200 pairs
REAL = numbered(WHOLE[WHOLE["shape"] != WHOLE["texture"]].reset_index(drop=True))
_pairs = [(f"class{s:02d}", f"class{t:02d}", i) for s in range(16) for i in range(5) for t in range(16) if t != s]
MINI = numbered(conflicts(*zip(*((s, t, f"{s}-{i}", t) for s, t, i in _pairs), strict=True)))  # a material per class


def observers(cues_, rng, level, by_shape, by_texture, own=0.0, count=1, decided=0.85):
    """Decisions of observers who share the images' peculiarities, with some (`own`) of their own.

    The log-odds of shape against texture are `level` plus a normal effect of each shape image and texture image.
    """
    ways = [cues_[name].to_numpy() for name in ("shape_image", "texture_image")]
    shared = [scale * rng.normal(size=way.max() + 1) for way, scale in zip(ways, (by_shape, by_texture), strict=True)]
    answers = []
    for _ in range(count):
        effects = [(e + own * rng.normal(size=len(e)))[way] for e, way in zip(shared, ways, strict=True)]
        shape = rng.random(len(cues_)) < expit(level + sum(effects))
        answer = np.where(shape, cues_["shape"], cues_["texture"])
        answers.append(np.where(rng.random(len(cues_)) < decided, answer, "neither"))
    return answers


def true_share(level, spread):
    """Mean of expit(level + normal effect)."""
    return float(expit(level + spread * norm.ppf((np.arange(4000) + 0.5) / 4000)).mean())


def test_a_texture_image_that_decides_is_one_observation_not_twenty_five():
    """Resampling shape images alone sees every shape image half right: it takes 1,200 answers for independent."""
    decided = REAL["texture_image"] % 2 == 0
    said = {"m": np.where(decided, REAL["shape"], REAL["texture"])}
    turned = REAL.rename(columns={"shape_image": "texture_image", "texture_image": "shape_image"})
    (low, high), other = (sb.table(said, cues_).set_index("metric").loc["shape_bias", ENDS] for cues_ in (REAL, turned))
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(4 * 48), rel=0.1) and (low, high) == tuple(other)


@pytest.mark.parametrize("level, by_shape, by_texture", [(-1.3, 0.6, 0.9), (2.5, 1.0, 0.7)])
def test_interval_of_the_bias_covers_at_the_released_sets_design(level, by_shape, by_texture):
    """Shape images alone cover .70 to .83 here."""
    truth, inside = true_share(level, np.hypot(by_shape, by_texture)), 0
    for seed in range(100):
        (answer,) = observers(REAL, np.random.default_rng(seed), level, by_shape, by_texture)
        hit, decided = answer == REAL["shape"], answer != "neither"
        share = stats.share_interval(hit[decided], REAL["shape_image"][decided], crossed=REAL["texture_image"][decided])
        inside += share.low <= truth <= share.high
    row = sb.table({"m": answer}, REAL).iloc[0]
    assert (row.ci_low, row.ci_high) == share  # what the table prints
    assert inside / 100 >= 0.92


@pytest.mark.parametrize("level", [0.0, 5.5])
def test_interval_of_a_categorys_bias_covers(level):
    """Five shape images per category; percentile bootstraps cover .83 and, where the bias is .99, .32."""
    truth, inside = true_share(level, np.hypot(1, 0.5)), []
    for seed in range(8):
        (answer,) = observers(MINI, np.random.default_rng(seed), level, 1, 0.5)
        rows = sb.table({"m": answer}, MINI)
        rows = rows[rows.metric.str.startswith("shape_bias:")]
        assert (rows.ci_high - rows.ci_low > 0.01).all() and (rows.n == 5).all()
        inside.append(((rows.ci_low <= truth) & (truth <= rows.ci_high)).mean())
    assert np.mean(inside) >= 0.92


def test_a_model_that_never_errs_is_not_certain_to_be_perfect():
    rows = sb.table({"m": MINI["shape"]}, MINI).set_index("metric")
    for metric, count in (("shape_bias", 80), ("shape_bias:class00", 5)):
        assert tuple(rows.loc[metric, ENDS]) == pytest.approx(stats.wilson(count, count))


def test_differences_are_paired():
    models = ["vit_sup", "convnext_sup", "resnet50"]
    rows = sb.differences({m: STORED[m] for m in models}, WHOLE)
    assert list(zip(rows.model_a, rows.model_b, strict=True)) == list(itertools.combinations(models, 2))
    first = rows.iloc[0]
    assert first.difference == pytest.approx(0.3986 - 0.3330, abs=1e-4)
    assert first.ci_low < first.difference < first.ci_high and first.n == 160
    assert rows.p.max() < 0.03
    same = sb.differences({"a": STORED.vit_sup, "b": STORED.vit_sup}, WHOLE).iloc[0]
    assert same.difference == 0 and same.p == 1


def test_influences_are_those_of_dropping_an_image():
    """The error of a difference by an independent route: leave one shape image out, one texture image, one stimulus."""
    models = ("vit_clip", "resnet50")
    a, b = (np.array(sb.hits(STORED[m], WHOLE["shape"], WHOLE["texture"])) for m in models)

    def jackknife(labels):
        groups = pd.factorize(labels)[0]
        left = []
        for k in range(groups.max() + 1):
            (shape_a, texture_a), (shape_b, texture_b) = a[:, groups != k].sum(axis=1), b[:, groups != k].sum(axis=1)
            left.append(shape_a / (shape_a + texture_a) - shape_b / (shape_b + texture_b))
        return len(left) / (len(left) - 1) * np.sum((np.array(left) - np.mean(left)) ** 2)

    labels = WHOLE["shape_image"], WHOLE["texture_image"], np.arange(len(WHOLE))
    error = np.sqrt(np.dot([1, 1, -1], [jackknife(of_one) for of_one in labels]))
    row = sb.differences({m: STORED[m] for m in models}, WHOLE).iloc[0]
    reach = student(47).isf(0.025) * error
    assert (row.ci_low, row.ci_high) == pytest.approx((row.difference - reach, row.difference + reach), abs=0.004)
    assert row.p == pytest.approx(2 * student(47).sf(row.difference / error), abs=0.003)


@pytest.mark.parametrize("design, level", [(REAL, -0.8), (MINI, 4.7)])
def test_equal_observers_seldom_differ(design, level):
    """Shape images alone find a difference in a quarter of the cases on the released set's design."""
    p = []
    for seed in range(100):
        a, b = observers(design, np.random.default_rng(seed), level, 0.6, 0.9, own=0.5, count=2)
        p.append(sb.differences({"a": a, "b": b}, design).p[0])
    assert np.mean(np.array(p) < 0.05) < 0.08 and np.mean(np.array(p) < 0.01) < 0.03


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=40))
def test_kappa_equals_sklearn_wherever_it_is_defined(pairs):
    a, b = np.array(pairs).T
    names = [str(k) for k in range(len(a))]  # of stimuli whose shapes and textures are all their own
    said = {m: np.where(right, names, "neither") for m, right in (("a", a), ("b", b))}
    found = sb.consistency_table(said, conflicts(names, names[::-1], names, names[::-1])).value[0]
    defined = (a.any() or b.any()) and not (a.all() and b.all())
    assert found == pytest.approx(cohen_kappa_score(a, b) if defined else np.nan, abs=1e-9, nan_ok=True)


def test_consistency_table():
    rng = np.random.default_rng(0)
    (a,), (free,) = (observers(REAL, rng, 0.5, 0, 0) for _ in range(2))
    same, row, _ = sb.consistency_table({"a": a, "same": a, "free": free}, REAL).itertuples()
    assert same.value == 1 and np.isnan([same.ci_low, same.ci_high]).all()
    assert row.ci_low < 0 < row.ci_high and row.n == 160


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_interval_of_kappa_covers(own):
    level, by_shape, by_texture, decided = -0.5, 0.8, 1.2, 0.85
    many = np.random.default_rng(1).normal(size=(4, 200_000))
    common = by_shape * many[0] + by_texture * many[1]
    p = [decided * expit(level + common + own * np.sqrt(2) * many[k]) for k in (2, 3)]
    agree, (p_a, p_b) = np.mean(p[0] * p[1] + (1 - p[0]) * (1 - p[1])), (np.mean(p[0]), np.mean(p[1]))
    truth = 1 - (1 - agree) / (p_a + p_b - 2 * p_a * p_b)
    inside = 0
    for seed in range(100):
        a, b = observers(REAL, np.random.default_rng(seed), level, by_shape, by_texture, own, 2, decided)
        row = sb.consistency_table({"a": a, "b": b}, REAL).iloc[0]
        inside += row.ci_low <= truth <= row.ci_high
    assert inside / 100 >= 0.92


def test_cues_come_from_metadata_or_from_the_names():
    columns = {"shape": ["car", "dog"], "texture": ["dog", "car"], "cluster": ["c1", "d1"]}
    metadata = pd.DataFrame(columns, index=pd.Index(["x", "y"], name="id"))
    expected = [["dog", "car", "d1", "car"], ["car", "dog", "c1", "dog"]]
    assert sb.cue_table(["y", "x"], metadata).values.tolist() == expected
    named = sb.cue_table(["y", "x"], metadata.assign(texture_image=["t1", "t2"]))
    assert named["texture_image"].tolist() == ["t2", "t1"]
    assert sb.cue_table(["cat/cat1-dog2"], pd.DataFrame()).values.tolist() == [["cat", "dog", "cat1", "dog2"]]
    with pytest.raises(InputError, match="expected a name"):
        sb.cue_table(["x"], metadata[["shape"]])


def test_rates_and_disagreements():
    columns = {"shape": list("aabbc"), "texture": list("bcacc"), "shape_image": range(5)}
    cues_ = pd.DataFrame(columns, index=list("vwxyz"))
    decisions = {"m": np.array(list("abbbc")), "n": np.array(list("bcaac"))}
    rates = sb.decision_rates(decisions, cues_).set_index("model")
    assert rates.loc["m", "kind"].tolist() == list(sb.CUES) and rates.loc["m", "value"].tolist() == [75.0, 0.0, 25.0]
    picked = sb.pick_disagreements(decisions, cues_, 2, 0)
    assert set(picked["shape"]) == {"a", "b"} and "z" not in picked.index
    assert picked.loc[picked["shape"] == "a", ["m", "n"]].values.tolist() == [["a", "b"]]
    assert sb.pick_disagreements({"m": decisions["m"]}, cues_, 2, 0).empty


def page_of(runs, class_names):
    """What the module asks of a page."""
    data = {"predictions": lambda d: runs, "metadata": lambda d: pd.DataFrame(), "class_names": lambda d: class_names}
    return SimpleNamespace(**data, models=list(runs), labels={m: m.upper() for m in runs}, title=str.title)


def test_models_without_logits_are_left_out_by_name():
    ids, names = np.array(["cat1-dog1", "dog1-cat1"]), ("x",) * 1000
    bare = SimpleNamespace(ids=ids, probabilities=None, pred=np.array([1, -1]))
    known = SimpleNamespace(ids=ids, probabilities=np.eye(1000)[[281, 152]])
    page = page_of({"bare": bare, "known": known}, names)
    table, decisions = sb.decisions_of(page, "set")
    assert list(decisions) == ["known"] and decisions["known"].tolist() == ["cat", "dog"]
    assert sb.describe(page, table, decisions).endswith("left out for want of logits or decisions: BARE")
    # where classes are the categories, an answer is a decision
    assert sb.decisions_of(page_of({"bare": bare}, ("cat", "dog")), "set")[1]["bare"].tolist() == ["dog", "none"]
    with pytest.raises(DataMissing, match="no model of this report has logits"):
        sb.decisions_of(page_of({"bare": bare}, names), "set")


def test_a_set_of_another_kind_is_one_message():
    runs = {"known": SimpleNamespace(ids=np.array(["red/red000"]), probabilities=np.eye(2))}
    with pytest.raises(InputError, match="cue_conflict: the dataset is no set of conflicting cues: .*red/red000"):
        sb.decisions_of(page_of(runs, ("a", "b")), "val")


def test_people_stand_only_beside_images_that_they_saw():
    cat = conflicts(["cat"], ["dog"], ["cat1"], ["dog1"])
    assert list(sb.human_bias(page_of({}, ("x",) * 1000), "set", cat).index) == ["cat", "all"]
    assert sb.human_bias(page_of({}, ("cat", "dog")), "set", cat).empty
    humans = pd.read_csv(ASSETS / "human_cue_conflict.csv")
    assert humans.observer.nunique() == 10 and len(humans) == 160 and humans.n.sum() == 12_800
    total = humans[["shape_hits", "texture_hits"]].sum()
    assert total.shape_hits / total.sum() == human_shape_bias()["all"] == pytest.approx(0.9587, abs=5e-5)
    assert len(human_shape_bias()) == 17


def test_figure_has_a_line_per_model_and_one_for_people():
    decisions = {m: STORED[m] for m in ("vit_sup", "convnext_sup")}
    bias = sb.table(decisions, WHOLE).loc[lambda rows: rows.metric.str.startswith("shape_bias")]
    specs = [SimpleNamespace(name=m, label=m, family="transformer", paradigm="supervised") for m in decisions]
    fig, alt = sb.bias_dots(bias, theme.styles(specs), bias.iloc[:0], human_shape_bias())
    upright = {x[0] for x in (line.get_xdata() for line in fig.axes[0].lines) if len(x) == 2 and x[0] == x[1]}
    assert {*bias[bias.metric == "shape_bias"].value, human_shape_bias()["all"]} <= upright
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == sorted(set(REAL["shape"]))
    assert "vit_sup 0.40" in alt and "humans" in {text.get_text() for text in fig.axes[0].texts}


def test_finding_names_open_pairs_and_a_set_at_its_ceiling():
    rows = tidy.rows("shape_bias", "fraction", list("abc"), [0.95, 0.96, 0.99], 80, ends=[(0.9, 1.0)] * 3)
    judged = pd.DataFrame({"model_a": list("aab"), "model_b": list("bcc"), "replicated": False})
    judged["verdict"] = [verdicts.OPEN, verdicts.THESE, verdicts.THESE]
    text = sb.sentence(page_of(dict.fromkeys("abc"), ()), "set", rows, judged, pd.Series({"all": 0.96}))
    assert text.startswith(
        "Of the decisions for either cue nine in ten or more are for the shape, in all models"
    ) and text.endswith("reach 0.96.")
    assert " Shape bias on Set: A 0.950 [0.900, 1.000], B" in text and "; open: A and B." in text
    judged = judged.assign(ci_low=-0.1, ci_high=0.1, difference=0.0)
    assert sb.claim(page_of(dict.fromkeys("abc"), ()), rows, judged) == "Shape bias runs from 0.95 (A or B) to 0.99 (C)"
    assert sb.claim(page_of({"a": None}, ()), rows.iloc[:1], judged) == "Shape bias is 0.95 (A)"


def test_a_real_network_on_real_images(shared_dir, efficientnet_lite0):
    """40 of the 1,280 images through timm's tf_efficientnet_lite0; its decisions are pinned."""
    import timm
    import torch
    from PIL import Image
    from torchvision.transforms import Compose, Normalize, ToTensor

    network = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(efficientnet_lite0)).eval()
    files = sorted((shared_dir / "data" / "cue_conflict").glob("*/*.png"))[::8]
    transform = Compose([ToTensor(), Normalize(0.5, 0.5)])
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(f).convert("RGB")) for f in files])
        probabilities = torch.cat([network(batch).softmax(1) for batch in pixels.split(8)]).numpy()
    table = sb.cue_table([str(f) for f in files], pd.DataFrame())
    decision = sb.decide(probabilities, cue_categories())
    by_shape, by_texture = sb.hits(decision, table["shape"], table["texture"])
    found = [len(files), by_shape.sum(), by_texture.sum(), (decision == table["shape"]).sum()]
    assert found == pytest.approx([40, 6, 19, 6], abs=1)  # one image of leeway for other processors' rounding


def test_published_decisions_become_a_page(tmp_path, monkeypatch):
    """In model-vs-human's form, through the profile `published`: the numbers of the decisions themselves."""
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path))
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path / "out"))
    file = tmp_path / "published_predictions" / "cue_decisions-resnet50.csv"
    file.parent.mkdir()
    said = STORED["resnet50"].to_numpy(object)
    names = "0001_s5n_s01_0_x_00_" + STORED["imagename"]
    page = Page(load_profile("published"), "shape_bias", Store(tmp_path / "store"), {})

    def taken(first):
        """Bias and decisions of the file; its first one, `bottle`, on airplane1-bicycle2, replaced."""
        said[0] = first
        pd.DataFrame({"subj": "x", "object_response": said, "imagename": names}).to_csv(file, index=False)
        cues, decisions = sb.decisions_of(page, "cue_decisions")
        assert list(decisions) == ["resnet50"] and len(sb.human_bias(page, "cue_decisions", cues)) == 17
        bias = sb.table(decisions, cues).set_index("metric").loc["shape_bias", "value"]
        return bias, decisions["resnet50"][list(cues.index).index("airplane/airplane1-bicycle2")]

    assert taken("na") == (pytest.approx(170 / (170 + 621)), "none")  # for neither cue
    assert taken("airplane") == (pytest.approx(171 / (171 + 621)), "airplane")  # a new file is taken anew
    with pytest.raises(InputError, match="predicted_class is nan, expected a whole number from 0 to 15"):
        taken("spoon")


def test_every_published_file_is_some_models():
    profile = load_profile("published")
    files = {file.at(Path("published_predictions")).as_posix() for file in sources()["published_predictions"].files}
    named = {s.checkpoint.replace("{dataset}", d) for s in profile.models.values() for d in profile.datasets}
    assert files <= named and all(any(n in files for n in named if s in n) for s in profile.models)
