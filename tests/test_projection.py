"""Projected times, by hand from rates and passes."""

from dataclasses import replace

import pandas as pd
import pytest

from beyond_accuracy import throughput
from beyond_accuracy.profiles import ModelSpec, load_profile


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
    assert "1.5 h" in throughput.projection(small)[1]


def test_models_without_a_rate_are_named(small):
    models = small.models | {"own": ModelSpec("own", "timm", "local-dir:somewhere")}
    lines = throughput.projection(replace(small, models=models))
    assert "2 models one after the other (0.04 million passes each" in lines[0] and "without own" in lines[-1]
    assert throughput.projection(replace(small, models={"own": models["own"]})) == []
