import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.decomposition import PCA

from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.data import published
from beyond_accuracy.dimensions import landscape, landscape_axes


@pytest.fixture(scope="module")
def board():
    return published.leaderboard()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def families(count):
    """Names of as many models, each a family of its own."""
    return ["".join(chr(97 + int(digit)) for digit in f"{i:03d}") + "_base.tag" for i in range(count)]


# ------------------------------------------------------------------------- what is known about the published models


def test_size_is_not_told_from_chance_among_models_of_equal_accuracy(board, rng):
    band = landscape.peers(board, 83.5, 84.5)
    table = landscape.associations(band, "params_m", landscape.ROBUSTNESS, 300, rng).set_index("benchmark")
    assert (table.n == 40).all()
    assert table.value.round(2).to_dict() == {
        "imagenet_v2": 0.12, "imagenet_a": 0.22, "imagenet_r": -0.02, "imagenet_sketch": -0.14,
    }  # fmt: skip
    assert ((table.ci_low < 0) & (table.ci_high > 0)).all()


def test_convnets_score_lower_on_a_at_equal_accuracy(board):
    band = landscape.peers(board, 83.5, 84.5)
    gap = landscape.group_gap(band, ["imagenet_a"]).iloc[0]
    assert gap.value == pytest.approx(-3.30, abs=0.005)
    assert gap.ci_high < 0 and gap.n == 14 + 15


def test_clip_size_and_data_explain_r(board):
    clip = board[board.source == "open_clip"]
    fit = landscape_axes.scaling_fit(clip, "imagenet_r", ["params_m", "pretrain_samples"])
    assert fit.r2.iloc[0] == pytest.approx(0.851, abs=0.0006) and fit.n.iloc[0] == 103
    assert (fit.ci_low > 0).all()


def test_r_and_sketch_are_one_axis_once_imagenet_is_known(board, rng):
    supervised = board[board.paradigm == "supervised"]
    shares, loadings = landscape_axes.principal_components(
        supervised, landscape.ROBUSTNESS, 50, rng, given="imagenet_1k"
    )
    assert shares.value.sum() == pytest.approx(1)
    assert loadings.loc[["imagenet_r", "imagenet_sketch"], "component 1"].min() > 0.55


# ------------------------------------------------------------------------------------------------------ correlations


def test_partial_spearman_against_the_textbook_formula(rng):
    z = rng.normal(size=60)
    x, y = z + rng.normal(size=60), z + rng.normal(size=60)
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert landscape.partial_spearman(np.column_stack([x, y]), z) == pytest.approx([expected], abs=1e-12)
    assert landscape.partial_spearman(np.column_stack([x, y])) == pytest.approx([xy], abs=1e-12)


def test_spearman_with_ties_and_without_variation():
    x, y = [1, 1, 2, 3, 3], [2, 1, 1, 5, 4]
    assert landscape.partial_spearman(np.column_stack([x, y])) == pytest.approx([stats.spearmanr(x, y).statistic])
    assert np.isnan(landscape.partial_spearman(np.array([[1, 1], [1, 2], [1, 3]])))
    assert np.isnan(landscape.partial_spearman(np.array([[1, 3], [2, 1], [3, 2]]), [1, 2, 3]))


def test_association_controls_and_intervals(rng):
    """x and y share only their cause z: the plain correlation is strong, the partial one covers zero."""
    z = rng.normal(size=150)
    frame = pd.DataFrame(
        {"x": z + 0.5 * rng.normal(size=150), "y": z + 0.5 * rng.normal(size=150), "z": z, "source": "timm"}
    )
    frame["model"] = families(150)
    frame["pretrain_data"] = "in1k"
    plain = landscape.associations(frame, "x", ["y"], 400, rng).iloc[0]
    partial = landscape.associations(frame, "x", ["y"], 400, rng, controls=["z"]).iloc[0]
    assert plain.ci_low > 0.6
    assert partial.ci_low < 0 < partial.ci_high
    with pytest.raises(ValueError, match="too few"):
        landscape.associations(frame.head(7), "x", ["y"], 10, rng)


def test_text_controls_become_indicators(rng):
    """Within each group x and y are opposed; the groups' levels hide it."""
    within = np.tile(np.arange(20.0), 2)
    group = np.repeat(["a", "b"], 20)
    shift = 100.0 * (group == "b")
    frame = pd.DataFrame({"x": within + shift, "y": -within + shift, "g": group, "source": "timm"})
    frame["model"] = families(40)
    frame["pretrain_data"] = "in1k"
    assert landscape.associations(frame, "x", ["y"], 50, rng).value[0] > 0
    assert landscape.associations(frame, "x", ["y"], 50, rng, controls=["g"]).value[0] == pytest.approx(-1)


def test_rank_correlations_equal_scipy(board, rng):
    columns = ["imagenet_1k", "imagenet_r", "vtab_structured"]
    clip = board[board.source == "open_clip"]
    table = landscape.rank_correlations(clip, columns, 100, rng)
    assert len(table) == 3 and (table.ci_low <= table.value).all() and (table.value <= table.ci_high).all()
    for row in table.itertuples():
        assert row.value == pytest.approx(stats.spearmanr(clip[row.a], clip[row.b]).statistic)


def test_lineage_groups_families_and_close_copies(board):
    groups = landscape.lineage(board).set_axis(board.model)
    assert groups.notna().all()
    assert groups["ViT-B-16/laion400m_e31"] == groups["ViT-B-16/laion400m_e32"]
    assert groups["convnext_base.fb_in1k"] == groups["convnext_large.fb_in1k"] == "convnext"
    assert groups["swin_base_patch4_window7_224.ms_in1k"] != groups["swinv2_base_window8_256.ms_in1k"] == "swinv2"
    assert groups["convnext_base.fb_in1k"] != groups["deit3_base_patch16_224.fb_in1k"]
    depths = groups[groups.index.str.match(r"resnet\d")]
    assert len(depths) > 5 and set(depths) == {"resnet"}
    band = landscape.peers(board, 83.5, 84.5)
    assert landscape.lineage(band).nunique() == 28 < len(band)  # by architecture 39 of 40: no clustering at all


def test_bootstrap_of_clusters_is_wider_and_whole(rng):
    values = np.repeat(rng.normal(size=10), 10)
    clusters = np.repeat(np.arange(10), 10)

    def statistic(i):
        return [values[i].mean()]

    rows = landscape.bootstrap_models(statistic, 100, 800, rng)
    grouped = landscape.bootstrap_models(statistic, 100, 800, rng, clusters)
    assert rows.shape == (800, 1)
    assert grouped.std() > 2 * rows.std()
    seen = []
    landscape.bootstrap_models(lambda i: seen.append(np.bincount(i, minlength=100)) or [0.0], 100, 5, rng, clusters)
    assert all((counts.reshape(10, 10) == counts.reshape(10, 10)[:, :1]).all() for counts in seen)


def test_interval_refuses_mostly_undefined_draws():
    with pytest.raises(ValueError, match="too few models"):
        landscape.interval([1.0, np.nan, np.nan])
    assert landscape.interval([*np.ones(19), np.nan]) == (1.0, 1.0)
    draws = np.random.default_rng(0).normal(size=4000)
    few, many = landscape.interval(draws, 5), landscape.interval(draws)
    assert few[1] - few[0] > 1.4 * (many[1] - many[0])


# ----------------------------------------------------------------------------------------------------- matched pairs


def models(**columns):
    frame = pd.DataFrame(columns)
    return frame.assign(pretrain_data="in1k", model=[f"m{i}" for i in range(len(frame))])


def test_match_pairs_by_hand():
    frame = models(imagenet_1k=[80.0, 80.1, 80.05, 85.0], params_m=[10.0, 25.0, 100.0, 30.0])
    pairs = landscape.match_pairs(frame, contrast="params_m", least_ratio=2)
    # 0 and 1, 0 and 2, 1 and 2 are admissible; one pair is possible, the closest in accuracy wins; larger model first
    assert pairs.to_numpy().tolist() in ([[2, 0]], [[2, 1]])
    assert landscape.match_pairs(frame, contrast="params_m", least_ratio=20).empty


def test_match_pairs_uses_a_model_once_and_finds_the_most_pairs():
    # greedy by distance would pair 1 with 2 and leave 0 and 3 alone
    frame = models(imagenet_1k=[80.0, 80.1, 80.15, 80.25], family=["convnet", "transformer", "convnet", "transformer"])
    pairs = landscape.match_pairs(frame.assign(params_m=1.0), contrast="family", groups=("convnet", "transformer"))
    assert pairs.to_numpy().tolist() == [[0, 1], [2, 3]]


def test_match_pairs_respects_limits(board):
    supervised = board[board.paradigm == "supervised"].reset_index(drop=True)
    pairs = landscape.match_pairs(
        supervised, contrast="family", groups=("convnet", "transformer"), accuracy_within=0.25,
        ratio_within={"params_m": 1.5},
    )  # fmt: skip
    first, second = supervised.loc[pairs["first"]], supervised.loc[pairs["second"]]
    assert len(pairs) >= 15 and not set(pairs["first"]) & set(pairs["second"])
    assert (first.family == "convnet").all() and (second.family == "transformer").all()
    assert (first.pretrain_data.to_numpy() == second.pretrain_data.to_numpy()).all()
    assert np.abs(first.imagenet_1k.to_numpy() - second.imagenet_1k.to_numpy()).max() <= 0.25
    ratio = first.params_m.to_numpy() / second.params_m.to_numpy()
    assert ratio.max() <= 1.5 and ratio.min() >= 1 / 1.5


def test_pair_differences_by_hand():
    frame = models(y=[1.0, 2, 3, 4, 5, 0, 0, 0, 0, 0]).assign(source="timm", model=[*"abcdefghij"])
    pairs = pd.DataFrame({"first": range(5), "second": range(5, 10)})
    row = landscape.pair_differences(frame, pairs, ["y"]).iloc[0]
    # Every model a family of its own: each side's variance is 5/4 * 10 / 25, what both hold is 10 / 25.
    assert (row.value, row.n, row.p) == (3, 5, pytest.approx(2 * stats.t.sf(3 / 0.6**0.5, 4)))
    with pytest.raises(ValueError, match="too few"):
        landscape.pair_differences(frame, pairs.head(4), ["y"])
    # Two families of ConvNets, gaps 1, 1 | 4, 4, 4: their deviations add up to -3.6 and 3.6, squares are 10.8 in all.
    frame = models(y=[1.0, 1, 4, 4, 4, 0, 0, 0, 0, 0]).assign(source="timm")
    frame["model"] = ["a_1", "a_2", "b_1", "b_2", "b_3", *"fghij"]
    row = landscape.pair_differences(frame, pairs, ["y"]).iloc[0]
    assert row.ci_high - row.value == pytest.approx(
        stats.t.ppf(0.975, 1) * ((4 * 3.6**2 + 10.8 * (5 / 4 - 1)) / 25) ** 0.5
    )


def test_pairs_of_few_families_are_few(board):
    """Families that differ for reasons of their own: intervals of matched pairs that count every pair cover 72 %."""
    supervised = board[board.paradigm == "supervised"].reset_index(drop=True)
    pairs = landscape.match_pairs(
        supervised, contrast="family", groups=("convnet", "transformer"), accuracy_within=0.25,
        ratio_within={"params_m": 1.5},
    )  # fmt: skip
    rng, family = np.random.default_rng(2), pd.factorize(landscape.lineage(supervised))[0]
    names = [f"y{k}" for k in range(800)]
    noise = rng.normal(size=(len(supervised), 800)) + rng.normal(size=(family.max() + 1, 800))[family]
    table = supervised[["model", "source", "pretrain_data"]].join(pd.DataFrame(noise, columns=names))
    found = landscape.pair_differences(table, pairs, names)
    assert ((found.ci_low <= 0) & (0 <= found.ci_high)).mean() >= 0.92
    assert (found.p < 0.05).mean() == pytest.approx(((found.ci_low > 0) | (found.ci_high < 0)).mean())


def test_group_gap_counts_families(board):
    band = landscape.peers(board, 83.5, 84.5)
    rng, family = np.random.default_rng(3), pd.factorize(landscape.lineage(band))[0]
    names = [f"y{k}" for k in range(800)]
    noise = rng.normal(size=(len(band), 800)) + rng.normal(size=(family.max() + 1, 800))[family]
    frame = band[["model", "source", "pretrain_data", "family"]].join(pd.DataFrame(noise, columns=names))
    found = landscape.group_gap(frame, names)
    assert ((found.ci_low <= 0) & (0 <= found.ci_high)).mean() >= 0.92
    means = frame.groupby("family").y0.mean()
    assert found.value[0] == pytest.approx(means["convnet"] - means["transformer"])
    with pytest.raises(ValueError, match="2 and 15 models: too few"):
        landscape.group_gap(frame.drop(index=frame.index[frame.family == "convnet"][2:]), ["y0"])


# -------------------------------------------------------------------------------------------------- scaling and axes


def synthetic_clip(rng, groups=12, each=6):
    data = np.repeat(2.0 ** rng.uniform(22, 32, groups), each)
    size = 2.0 ** rng.uniform(5, 10, groups * each)
    frame = pd.DataFrame({"params_m": size, "pretrain_samples": data, "source": "open_clip"})
    frame["pretrain_data"] = [f"d{g}" for g in np.repeat(np.arange(groups), each)]
    frame["model"] = [f"m/{i}" for i in range(len(frame))]
    frame["r"] = 3 * np.log2(size) + 5 * np.log2(data) - 100 + rng.normal(size=len(frame))
    return frame


def test_scaling_fit_recovers_points_per_doubling(rng):
    frame = synthetic_clip(rng)
    fit = landscape_axes.scaling_fit(frame, "r", ["params_m", "pretrain_samples"]).set_index("term")
    for term, slope in (("params_m", 3), ("pretrain_samples", 5)):
        assert fit.ci_low[term] < slope < fit.ci_high[term]
        assert fit.value[term] == pytest.approx(slope, abs=0.3)
    exog = np.column_stack([np.ones(len(frame)), np.log2(frame.params_m), np.log2(frame.pretrain_samples)])
    assert fit.value.to_numpy() == pytest.approx(np.linalg.lstsq(exog, frame.r, rcond=None)[0][1:])
    inside = landscape_axes.scaling_fit(frame, "r", ["params_m"], within="pretrain_data").iloc[0]
    assert inside.value == pytest.approx(3, abs=0.4) and inside.groups == 12
    with pytest.raises(ValueError, match="too few"):
        landscape_axes.scaling_fit(frame.head(9), "r", ["params_m"])


def test_variance_inflation_shows_confounded_sizes(rng):
    frame = synthetic_clip(rng)
    frame["samples_seen"] = frame.pretrain_samples * 2.0 ** rng.normal(0, 0.2, len(frame))
    fit = landscape_axes.scaling_fit(frame, "r", ["params_m", "pretrain_samples", "samples_seen"]).set_index("term")
    assert fit.vif["samples_seen"] > 20 and fit.vif["params_m"] < 2


def test_effective_robustness_is_zero_on_the_line():
    x = np.linspace(50, 90, 9)
    y = 100 * expit(0.8 * np.log(x / (100 - x)) - 1)
    frame = pd.DataFrame({"imagenet_1k": [*x, 95.0, 70.0], "r": [*y, 60.0, np.nan]})
    result = landscape_axes.effective_robustness(frame, "r", pd.Series([True] * 9 + [False] * 2))
    assert result.effective[:9].to_numpy() == pytest.approx(np.zeros(9), abs=1e-9)
    assert result.extrapolated.tolist() == [False] * 9 + [True, False]
    assert result.effective[9] == pytest.approx(60 - 100 * expit(0.8 * np.log(19) - 1), abs=1e-9)
    assert np.isnan(result.effective[10])
    with pytest.raises(ValueError, match="too few"):
        landscape_axes.effective_robustness(frame, "r", pd.Series([True] * 4 + [False] * 7))


def test_beyond_imagenet(board, rng):
    clip = board[board.source == "open_clip"]
    table = landscape_axes.beyond_imagenet(clip, ["imagenet_v2", "imagenet_r", "vtab_structured"], 200, rng)
    table = table.set_index("benchmark")
    assert table.value["imagenet_v2"] > 0.99 and table.noise_share["imagenet_v2"] > 0.5
    assert table.value["vtab_structured"] < 0.1 and np.isnan(table.noise_share["vtab_structured"])
    assert table.noise_share["imagenet_r"] < 0.05
    assert landscape_axes.STRUCTURED_CHANCE == pytest.approx(18.06, abs=0.005)


def test_principal_components_equal_sklearn(board, rng):
    columns = [*landscape.ROBUSTNESS, "objectnet"]
    clip = board[board.source == "open_clip"]
    shares, loadings = landscape_axes.principal_components(clip, columns, 20, rng)
    odds = np.log(clip[columns] / (100 - clip[columns])).to_numpy()
    expected = PCA().fit((odds - odds.mean(0)) / odds.std(0))
    assert shares.value.to_numpy() == pytest.approx(expected.explained_variance_ratio_)
    assert np.abs(loadings["component 1"].to_numpy()) == pytest.approx(np.abs(expected.components_[0]))
    assert (loadings.to_numpy()[np.abs(loadings.to_numpy()).argmax(0), range(5)] > 0).all()


# ------------------------------------------------------------------------------------------------- the study's models


def test_standing_among_peers():
    board = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(7)],
            "source": "timm",
            "paradigm": ["supervised"] * 6 + ["weak"],
            "imagenet_1k": [84.0, 84.2, 84.4, 84.6, 84.8, 90.0, 84.4],
            "imagenet_a": [30.0, 31, 32, 33, 34, 99, 99],
        }
    )
    own = pd.Series({"model": "mine", "paradigm": "supervised", "imagenet_1k": 84.4, "imagenet_a": 32.0})
    row = landscape.standing(board, own, ["imagenet_a", "imagenet_r"]).iloc[0]
    assert (row.n, row.peers_mean, row.difference, row.rank_share) == (5, 32.0, 0.0, 0.5)
    assert landscape.standing(board, own.replace(84.4, 60.0), ["imagenet_a"]).empty
    assert landscape.standing(board, board.iloc[2], ["imagenet_a"], least=4).n[0] == 4  # not its own peer


def test_own_rows_need_imagenet():
    rows = pd.DataFrame(
        [
            ("robustness", "imagenet_1k", "accuracy", "vit_sup", 85.0),
            ("robustness", "imagenet_r", "accuracy", "vit_sup", 61.0),
            ("robustness", "world_r", "accuracy", "convnext_sup", 61.0),
            ("calibration", "imagenet_1k", "accuracy", "vit_clip", 67.0),
        ],
        columns=["dimension", "dataset", "metric", "model", "value"],
    )
    specs = [ModelSpec("vit_sup", "timm", family="transformer", paradigm="supervised")]
    own = landscape.own_rows(rows, specs)
    assert own.model.tolist() == ["vit_sup"] and own.imagenet_r[0] == 61 and own.family[0] == "transformer"
    assert landscape.own_rows(rows[rows.dataset == "world_r"], specs).empty


# ------------------------------------------------------------------------------------------------------------ the page


def test_a_difference_that_is_open_is_not_called_one(board):
    table = pd.DataFrame(
        {"benchmark": ["imagenet_a"], "value": -4.2, "ci_low": -6.2, "ci_high": -2.2, "p": 0.01, "n": 20}
    )
    size = pd.DataFrame({"benchmark": ["imagenet_a"], "value": 0.2, "ci_low": -0.1, "ci_high": 0.5, "n": 40})
    size = size.assign(size="params_m", held="as they are")
    sure = landscape.judged(table, table, table.assign(p=0.5))
    assert sure.p_holm.tolist() == pytest.approx([0.03, 0.03, 0.5])
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


def test_components_name_their_share(board, rng):
    _, supervised, clip = landscape.models()
    rows, left = landscape_axes.components(supervised, clip, 20, rng)
    assert len(rows) == 16 and rows.component.str.match(r"(supervised|CLIP), (1st|2nd): \d+ \[\d+, \d+\] %").all()
    largest = rows[rows.component.str.startswith("supervised, 2nd")].set_index("benchmark").value.abs().idxmax()
    assert largest == "A" and 0.85 < left.value < 1
