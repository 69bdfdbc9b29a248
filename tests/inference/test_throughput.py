"""Published and measured rates: which rows stand for a model, and the hours projected from them by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import ModelSpec, load_profile
from beyond_accuracy.data import published
from beyond_accuracy.inference import throughput


def test_every_model_of_the_paper_has_published_rates_on_the_same_cards():
    found = {name: throughput.published_throughput(spec) for name, spec in load_profile("paper").models.items()}
    cards = {name: set(table.card) for name, table in found.items()}
    assert set(map(len, cards.values())) == {5}
    assert len(set(map(frozenset, cards.values()))) == 1
    assert all((table.side == 224).all() for table in found.values())
    assert all(table.source.str.startswith("timm benchmark-infer-").all() for table in found.values())


def test_known_rows():
    """Typed from timm's benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv, rounded to a tenth."""
    deit = throughput.published_throughput(ModelSpec("x", "timm", "deit3_base_patch16_224.fb_in22k_ft_in1k"))
    assert deit.set_index("card").images_per_second["NVIDIA RTX 3090"] == 1485.7
    convnext = throughput.published_throughput(ModelSpec("x", "open_clip", "convnext_base", "laion400m_s13b_b51k"), 288)
    assert convnext.set_index("card").images_per_second["NVIDIA RTX 3090"] == 788.1
    assert deit.images_per_second.is_monotonic_decreasing


def test_an_unpublished_side_or_architecture_has_no_rows():
    assert throughput.published_throughput(ModelSpec("x", "timm", "convnext_base"), side=300).empty
    assert throughput.published_throughput(ModelSpec("x", "timm", "no_such_network")).empty
    assert throughput.published_throughput(ModelSpec("x", "predictions")).empty


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("timm", "hf-hub:timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224"),
        ("timm", "local-dir:models/convnext_base", ""),
        ("open_clip", "ViT-B-16-quickgelu", "vit_base_patch16_clip_quickgelu_224"),
        ("open_clip", "ViT-L-14-336", "vit_large_patch14_clip_336"),
        ("open_clip", "ViT-H-14", "vit_huge_patch14_clip_224"),
        ("open_clip", "convnext_base_w", "convnext_base"),
        ("open_clip", "RN50", ""),
        ("open_clip", "no-such-model", ""),
        ("predictions", "", ""),
    ],
)
def test_architecture(source, name, expected):
    assert throughput.architecture(ModelSpec("x", source, name)) == expected


def test_architectures_are_timms():
    """The names that the table and the towers use exist in timm."""
    import timm

    table = throughput.published_rates()
    assert set(table.model) <= set(timm.list_models())
    assert not table.duplicated(["device", "model", "side"]).any()
    assert (table.images_per_second > 0).all()


def test_most_of_the_leaderboard_has_a_rate():
    board = published.leaderboard()
    specs = [
        ModelSpec("x", row.source, row.model if row.source == "timm" else row.model.partition("/")[0])
        for row in board.itertuples()
    ]
    assert sum(len(throughput.published_throughput(spec)) > 0 for spec in specs) > 0.9 * len(specs)


def test_measured_rates_are_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    spec = ModelSpec("x", "timm", "convnext_base")
    assert throughput.measured_throughput(spec).empty
    row = ("a card", "convnext_base", 224, "bf16", 100.0, "make bench")
    pd.DataFrame([row], columns=throughput.COLUMNS).to_csv(tmp_path / "rates.csv", index=False)
    assert throughput.measured_throughput(spec, 224).images_per_second.tolist() == [100.0]
    pd.DataFrame({"device": ["a card"]}).to_csv(tmp_path / "rates.csv", index=False)
    with pytest.raises(InputError, match="images_per_second"):
        throughput.measured_throughput(spec)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two models, 36,000 images."""
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    paper = load_profile("paper")
    datasets = {"imagenet_1k": replace(paper.datasets["imagenet_1k"], limit=36_000)}
    models = {name: paper.models[name] for name in ("vit_sup", "convnext_sup")}
    return replace(paper, models=models, datasets=datasets, dimensions={"models": {"clean": "imagenet_1k"}})


def test_hours_are_passes_over_rates_summed_over_models(small):
    table = throughput.projected_hours(small).set_index("card")
    # RTX 4090, typed from timm's table: 2724.5 and 2101.7 images per second
    assert table.hours["NVIDIA RTX 4090"] == pytest.approx(36_000 / 3600 * (1 / 2724.5 + 1 / 2101.7), rel=1e-4)
    assert len(table) == 5 and table.hours.is_monotonic_increasing


def test_larger_inputs_count_by_area(small):
    sizes = replace(small, dimensions={"invariance": {"clean": "imagenet_1k", "transforms": ["resolution"]}})
    expected = 36_000 * sum((side / 224) ** 2 for side in (112, 224, 336, 512, 640))
    assert throughput.usual_passes(sizes) == pytest.approx(expected)


def test_a_card_measured_here_comes_first_and_needs_every_model(small, tmp_path):
    rows = [("My card", "deit3_base_patch16_224", 224, "bf16", 10.0, "make bench")]
    pd.DataFrame(rows, columns=throughput.COLUMNS).to_csv(tmp_path / "rates.csv", index=False)
    assert "My card" not in set(throughput.projected_hours(small).card)
    rows.append(("My card", "convnext_base", 224, "bf16", 20.0, "make bench"))
    pd.DataFrame(rows, columns=throughput.COLUMNS).to_csv(tmp_path / "rates.csv", index=False)
    first = throughput.projected_hours(small).iloc[0]
    assert (first.card, first.source) == ("My card", "make bench")
    assert first.hours == pytest.approx(10 * (1 / 10 + 1 / 20))
    assert "90 min" in throughput.projection(small)[1]


def test_models_without_a_rate_are_named(small):
    models = small.models | {"own": ModelSpec("own", "timm", "local-dir:somewhere")}
    lines = throughput.projection(replace(small, models=models))
    assert "2 models one after the other (0.04 million passes each" in lines[0] and "without own" in lines[-1]
    assert throughput.projection(replace(small, models={"own": models["own"]})) == []
