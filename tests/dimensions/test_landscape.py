import numpy as np
import pandas as pd
import pytest
from pytest import approx
from scipy import stats
from sklearn.decomposition import PCA

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.dimensions import landscape

BOARD, SUPERVISED, CLIP = landscape.models()
BAND = landscape.peers(BOARD, 83.5, 84.5)
PAIRS = landscape.architecture_pairs(SUPERVISED, accuracy_within=0.25, size_within=1.5)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def models(names=None, **columns):
    """Models supervised on ImageNet-1K, each a family of its own."""
    frame = pd.DataFrame(columns).assign(source="timm", pretrain_data="in1k")
    families = ["".join(chr(97 + int(digit)) for digit in f"{i:03d}") + "_base.tag" for i in range(len(frame))]
    return frame.assign(model=names or families)


def test_partial_spearman_against_the_textbook_formula(rng):
    z = rng.normal(size=60)
    x, y = z + rng.normal(size=60), z + rng.normal(size=60)
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert landscape.partial_spearman(np.column_stack([x, y]), z) == approx([expected], abs=1e-12)
    assert landscape.partial_spearman(np.column_stack([x, y])) == approx([xy], abs=1e-12)
    # ties, and no variation
    x, y = [1, 1, 2, 3, 3], [2, 1, 1, 5, 4]
    assert landscape.partial_spearman(np.column_stack([x, y])) == approx([stats.spearmanr(x, y).statistic])
    assert np.isnan(landscape.partial_spearman(np.array([[1, 1], [1, 2], [1, 3]])))
    assert np.isnan(landscape.partial_spearman(np.array([[1, 3], [2, 1], [3, 2]]), [1, 2, 3]))


def test_association_controls_and_intervals(rng):
    """x and y share only their cause z: the plain correlation is strong, the partial one covers zero."""
    z = rng.normal(size=150)
    frame = models(x=z + 0.5 * rng.normal(size=150), y=z + 0.5 * rng.normal(size=150), z=z)
    assert landscape.associations(frame, "x", ["y"], 400, rng).ci_low[0] > 0.6
    partial = landscape.associations(frame, "x", ["y"], 400, rng, controls=["z"]).iloc[0]
    assert partial.ci_low < 0 < partial.ci_high
    with pytest.raises(ValueError, match="too few"):
        landscape.associations(frame.head(7), "x", ["y"], 10, rng)
    with pytest.raises(ValueError, match="10 of 10 resamples have no answer"):
        landscape.associations(frame.assign(x=0.0), "x", ["y"], 10, rng)
    # text controls become indicators: within each group x and y are opposed, the groups' levels hide it
    within, group = np.tile(np.arange(20.0), 2), np.repeat(["a", "b"], 20)
    frame = models(x=within + 100 * (group == "b"), y=-within + 100 * (group == "b"), g=group)
    assert landscape.associations(frame, "x", ["y"], 50, rng).value[0] > 0
    assert landscape.associations(frame, "x", ["y"], 50, rng, controls=["g"]).value[0] == approx(-1)


def test_rank_correlations_equal_scipy(rng):
    table = landscape.rank_correlations(CLIP, ["imagenet_1k", "imagenet_r", "vtab_structured"], 100, rng)
    assert len(table) == 3 and (table.ci_low <= table.value).all() and (table.value <= table.ci_high).all()
    for row in table.itertuples():
        assert row.value == approx(stats.spearmanr(CLIP[row.a], CLIP[row.b]).statistic)


def test_lineage_groups_families_and_close_copies():
    groups = landscape.lineage(BOARD).set_axis(BOARD.model)
    assert groups.notna().all()
    assert groups["ViT-B-16/laion400m_e31"] == groups["ViT-B-16/laion400m_e32"]
    assert groups["convnext_base.fb_in1k"] == groups["convnext_large.fb_in1k"] == "convnext"
    assert groups["swin_base_patch4_window7_224.ms_in1k"] != groups["swinv2_base_window8_256.ms_in1k"] == "swinv2"
    assert groups["convnext_base.fb_in1k"] != groups["deit3_base_patch16_224.fb_in1k"]
    depths = groups[groups.index.str.match(r"resnet\d")]
    assert len(depths) > 5 and set(depths) == {"resnet"}
    assert landscape.lineage(BAND).nunique() == 28 < len(BAND)  # by architecture 39 of 40: no clustering at all


def test_bootstrap_of_clusters_is_wider_and_whole(rng):
    values, clusters = np.repeat(rng.normal(size=10), 10), np.repeat(np.arange(10), 10)
    rows, grouped = (
        landscape.bootstrap_models(lambda i: [values[i].mean()], units, 800, rng) for units in (range(100), clusters)
    )
    assert rows.shape == (800, 1) and grouped.std() > 2 * rows.std()
    counts = landscape.bootstrap_models(lambda i: np.bincount(i, minlength=100), clusters, 5, rng).reshape(-1, 10)
    assert (counts == counts[:, :1]).all()


def test_pairs_by_hand():
    frame = models(imagenet_1k=[80.0, 80.1, 80.05, 85.0], params_m=[10.0, 25.0, 100.0, 30.0], family="convnet")
    # 0 and 1, 0 and 2, 1 and 2 are admissible; one pair is possible, the closest in accuracy wins; larger model first
    assert landscape.size_pairs(frame, 2).to_numpy().tolist() in ([[2, 0]], [[2, 1]])
    assert landscape.size_pairs(frame, 20).empty
    # greedy by distance would pair 1 with 2 and leave 0 and 3 alone
    frame = models(imagenet_1k=[80.0, 80.1, 80.15, 80.25], family=["convnet", "transformer"] * 2, params_m=1.0)
    assert landscape.architecture_pairs(frame, 0.15, 1.5).to_numpy().tolist() == [[0, 1], [2, 3]]


def test_pairs_respect_limits():
    first, second = (SUPERVISED.loc[PAIRS[side]].reset_index() for side in ("first", "second"))
    assert len(PAIRS) >= 15 and PAIRS.stack().is_unique
    assert (first.family == "convnet").all() and (second.family == "transformer").all()
    assert (first.pretrain_data == second.pretrain_data).all()
    assert (first.imagenet_1k - second.imagenet_1k).abs().max() <= 0.25
    assert (first.params_m / second.params_m).between(1 / 1.5, 1.5).all()


def test_pair_differences_by_hand():
    frame = models([*"abcdefghij"], y=[1.0, 2, 3, 4, 5, 0, 0, 0, 0, 0])
    pairs = pd.DataFrame({"first": range(5), "second": range(5, 10)})
    row = landscape.pair_differences(frame, pairs, ["y"]).iloc[0]
    # Every model a family of its own: each side's variance is 5/4 * 10 / 25, what both hold is 10 / 25.
    assert (row.value, row.n, row.p) == (3, 5, approx(2 * stats.t.sf(3 / 0.6**0.5, 4)))
    with pytest.raises(ValueError, match="too few"):
        landscape.pair_differences(frame, pairs.head(4), ["y"])
    # Two families of ConvNets, gaps 1, 1 | 4, 4, 4: their deviations add up to -3.6 and 3.6, squares are 10.8 in all.
    frame = models(["a_1", "a_2", "b_1", "b_2", "b_3", *"fghij"], y=[1.0, 1, 4, 4, 4, 0, 0, 0, 0, 0])
    row = landscape.pair_differences(frame, pairs, ["y"]).iloc[0]
    error = ((4 * 3.6**2 + 10.8 * (5 / 4 - 1)) / 25) ** 0.5
    assert row.ci_high - row.value == approx(stats.t.ppf(0.975, 1) * error)


@pytest.mark.parametrize(
    ("part", "seed", "measure"),
    [(SUPERVISED, 2, lambda frame, ys: landscape.pair_differences(frame, PAIRS, ys)), (BAND, 3, landscape.group_gap)],
    ids=["pairs", "groups"],
)
def test_intervals_cover_where_families_differ_for_reasons_of_their_own(part, seed, measure):
    """Intervals of matched pairs that count every pair as evidence cover 72 %."""
    rng, family = np.random.default_rng(seed), pd.factorize(landscape.lineage(part))[0]
    noise = rng.normal(size=(len(part), 500)) + rng.normal(size=(family.max() + 1, 500))[family]
    frame = part[["model", "source", "pretrain_data", "family"]].join(pd.DataFrame(noise).add_prefix("y"))
    found = measure(frame, frame.columns[4:])
    assert ((found.ci_low <= 0) & (0 <= found.ci_high)).mean() >= 0.92
    assert (found.p < 0.05).mean() == approx(((found.ci_low > 0) | (found.ci_high < 0)).mean())


def test_group_gap_is_a_difference_of_means_of_enough_models():
    gap = landscape.group_gap(BAND, ["imagenet_a"]).iloc[0]
    assert gap.value == approx(-3.30, abs=0.005) and gap.ci_high < 0 and gap.n == 14 + 15
    with pytest.raises(ValueError, match="2 and 15 models: too few"):
        landscape.group_gap(BAND.drop(index=BAND.index[BAND.family == "convnet"][2:]), ["imagenet_r"])


def test_scaling_fit_recovers_points_per_doubling_and_shows_confounded_sizes(rng):
    data, size = np.repeat(2.0 ** rng.uniform(22, 32, 12), 6), 2.0 ** rng.uniform(5, 10, 72)
    r = 3 * np.log2(size) + 5 * np.log2(data) - 100 + rng.normal(size=72)
    names = {"pretrain_data": [f"d{g}" for g in np.repeat(np.arange(12), 6)], "source": "open_clip"}
    frame = models(params_m=size, pretrain_samples=data, r=r).assign(**names)
    fit = landscape.scaling_fit(frame, "r", ["params_m", "pretrain_samples"])
    assert fit.value.tolist() == approx([3, 5], abs=0.3)
    assert (fit.ci_low < [3, 5]).all() and (fit.ci_high > [3, 5]).all()
    exog = np.column_stack([np.ones(len(frame)), np.log2(frame.params_m), np.log2(frame.pretrain_samples)])
    assert fit.value.to_numpy() == approx(np.linalg.lstsq(exog, frame.r, rcond=None)[0][1:])
    inside = landscape.scaling_fit(frame, "r", ["params_m"], within="pretrain_data").iloc[0]
    assert inside.value == approx(3, abs=0.4) and inside.groups == 12
    with pytest.raises(ValueError, match="too few"):
        landscape.scaling_fit(frame.head(9), "r", ["params_m"])
    seen = frame.pretrain_samples * 2.0 ** rng.normal(0, 0.2, len(frame))
    fit = landscape.scaling_fit(frame.assign(samples_seen=seen), "r", landscape.SIZES)
    vif = fit.set_index("term").vif
    assert vif["samples_seen"] > 20 and vif["params_m"] < 2


def test_beyond_imagenet(rng):
    columns = ["imagenet_v2", "imagenet_r", "vtab_structured"]
    table = landscape.beyond_imagenet(CLIP, columns, 200, rng).set_index("benchmark")
    assert table.value["imagenet_v2"] > 0.99 and table.noise_share["imagenet_v2"] > 0.5
    assert table.value["vtab_structured"] < 0.1 and np.isnan(table.noise_share["vtab_structured"])
    assert table.noise_share["imagenet_r"] < 0.05
    assert landscape.STRUCTURED_CHANCE == approx(18.06, abs=0.005)


def test_principal_components_equal_sklearn(rng):
    columns = [*landscape.ROBUSTNESS, "objectnet"]
    shares, loadings = landscape.principal_components(CLIP, columns, 20, rng)
    odds = np.log(CLIP[columns] / (100 - CLIP[columns])).to_numpy()
    expected = PCA().fit((odds - odds.mean(0)) / odds.std(0))
    assert shares.value.to_numpy() == approx(expected.explained_variance_ratio_)
    assert np.abs(loadings["component 1"].to_numpy()) == approx(np.abs(expected.components_[0]))
    assert (loadings.to_numpy()[np.abs(loadings.to_numpy()).argmax(0), range(5)] > 0).all()
    rows, left = landscape.components(SUPERVISED, CLIP, 20, rng)
    assert len(rows) == 16 and rows.component.str.match(r"(supervised|CLIP), (1st|2nd): \d+ \[\d+, \d+\] %").all()
    largest = rows[rows.component.str.startswith("supervised, 2nd")].set_index("benchmark").value.abs().idxmax()
    assert largest == "A" and 0.85 < left.value[0] < 1


def test_standing_among_peers():
    board = models(
        [f"m{i}" for i in range(7)], paradigm=["supervised"] * 6 + ["weak"],
        imagenet_1k=[84.0, 84.2, 84.4, 84.6, 84.8, 90.0, 84.4], imagenet_a=[30.0, 31, 32, 33, 34, 99, 99],
    ).assign(**dict.fromkeys(["imagenet_v2", "imagenet_r", "imagenet_sketch"], np.nan))  # fmt: skip
    own = pd.DataFrame({"model": ["mine"], "paradigm": "supervised", "imagenet_1k": 84.4, "imagenet_a": 32.0})
    table = landscape.standings(board, own, {})
    assert table.values.tolist() == [["mine", "A", 32.0, 32.0, 0.0, 0.5, 5]]
    assert landscape.standings(board, own.assign(imagenet_1k=60.0), {}).empty
    assert landscape.standings(board, own.iloc[:0], {"m2": "M 2"}, least=4).n[0] == 4  # not its own peer


def test_own_rows_need_imagenet():
    rows = [("robustness", "imagenet_1k", "vit_sup", 85.0), ("robustness", "imagenet_r", "vit_sup", 61.0)]
    rows += [("robustness", "world_r", "convnext_sup", 61.0), ("calibration", "imagenet_1k", "vit_clip", 67.0)]
    table = pd.DataFrame(rows, columns=["dimension", "dataset", "model", "value"]).assign(metric="accuracy")
    specs = [ModelSpec("vit_sup", "timm", family="transformer", paradigm="supervised")]
    own = landscape.own_rows(table, specs)
    assert own.model.tolist() == ["vit_sup"] and own.imagenet_r[0] == 61 and own.family[0] == "transformer"
    assert landscape.own_rows(table[table.dataset == "world_r"], specs).empty


def test_a_difference_that_is_open_is_not_called_one():
    rows = {"benchmark": ["imagenet_a"], "value": -4.2, "ci_low": -6.2, "ci_high": -2.2, "p": 0.01, "n": 20}
    table = pd.DataFrame(rows)
    size = table.assign(value=0.2, ci_low=-0.1, ci_high=0.5, n=40, size="params_m", held="as they are")
    sure = landscape.judged(table, table, table.assign(p=0.5))
    assert sure.p_holm.tolist() == approx([0.03, 0.03, 0.5])
    said = landscape.equal_accuracy_sentence(sure, size)
    assert "ConvNets score −4.2 [−6.2, −2.2] points" in said and "(20 matched pairs); no relation with size" in said
    unsure = landscape.judged(table, table.assign(p=0.2), table)
    assert "(20 matched pairs), which is not told from chance; " in landscape.equal_accuracy_sentence(unsure, size)
    assert "it goes with size" in landscape.equal_accuracy_sentence(sure, size.assign(ci_low=0.1))


def test_every_pair_is_drawn_beside_its_mean():
    gaps = pd.DataFrame({"benchmark": ["imagenet_a"] * 7, "difference": np.arange(7.0)})
    matched = pd.DataFrame({"benchmark": ["imagenet_a"], "value": [3.0], "ci_low": [1.0], "ci_high": [5.0]})
    fig, words = landscape.pairs_figure(gaps, None, matched)
    points = next(line for line in fig.axes[0].lines if len(line.get_xdata()) == 7)
    assert sorted(points.get_xdata()) == list(range(7)) and "A, mean" in words


def test_published_figure_has_marks_and_own_runs():
    own = pd.DataFrame({"model": ["mine"], "imagenet_1k": [80.0], "imagenet_r": [50.0]})
    baseline = (BOARD.paradigm == "supervised") & (BOARD.pretrain_data == "in1k")
    fig, words = landscape.published(BOARD[landscape.DRAWN], None, baseline, own)
    names = [landscape.NAMES[y] for y in landscape.ROBUSTNESS]
    stars = {n: [li for li in ax.lines if li.get_marker() == "*"] for n, ax in zip(names, fig.axes, strict=True)}
    assert len(stars["R"]) == 1 and not stars["A"] and stars["R"][0].get_ydata()[0] == approx(0)  # 50 %
    labels = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {"DeiT3-B/16", "CLIP ConvNeXt-B", "this run", "CLIP, zero-shot"} <= labels and "CLIP ViT-B/16" in words
