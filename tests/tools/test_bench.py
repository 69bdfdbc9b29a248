"""The benchmark: its loops run the same images, its page keeps what it did not measure. No timing is asserted."""

import numpy as np
import pandas as pd
import pytest
import torch

import bench
import bench_loops
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference.plan import RATES


@pytest.fixture
def table() -> pd.DataFrame:
    medians = [
        *[("clean", "ceiling", 200.0, ""), ("clean", "ours", 190.0, ""), ("clean", "timm", 150.0, "")],
        *[("clean", "plain", 100.0, ""), ("experiments", "ours", 2.0, 1.0), ("experiments", "plain", 8.0, 16)],
    ]
    rows = [("vit_base", a, b, "bf16", 32, x, x * 0.9, x * 1.1, 900.4, passes) for a, b, x, passes in medians]
    return pd.DataFrame(rows, columns=bench.COLUMNS)


def test_the_papers_experiments_are_sixteen_passes_of_which_thirteen_differ():
    texts = bench_loops.experiments()
    assert len(texts) == 16 and texts[0] == "none"
    assert len({parse(text).text for text in texts}) == 13  # scale=1, shift=0 and resolution=224 are the clean run


def test_section_states_ratio_gain_and_passes(table):
    text = bench.section(table, "A card", "Idle.", "2026-01-02")
    assert text.startswith("## A card\n\n2026-01-02, torch ") and "Idle." in text
    assert "| ViT-B/16 (DeiT3) | this engine | bf16 | 190 (171 to 209) | 0.95 | 900 |" in text
    assert "| ViT-B/16 (DeiT3) | this engine | bf16 | 2 (1.8 to 2.2) | 4.00 | 1 x |" in text
    assert "| ViT-B/16 (DeiT3) | loop per experiment | bf16 | 8 (7.2 to 8.8) | 1.00 | 16 x |" in text


def test_page_keeps_other_devices_and_prose_and_is_idempotent(tmp_path, table):
    page = tmp_path / "docs" / "benchmarks.md"
    bench.update_page(page, "Card A", "## Card A\nfirst")
    page.write_text(page.read_text().replace("# Benchmarks\n", "# Benchmarks\n\nProse stays.\n"))
    bench.update_page(page, "Card B", "## Card B\nother")
    bench.update_page(page, "Card A", "## Card A\nsecond")
    once = page.read_text()
    bench.update_page(page, "Card A", "## Card A\nsecond")
    assert page.read_text() == once
    assert once.count("## Card A") == once.count("## Card B") == 1
    assert "Prose stays." in once and "first" not in once and once.index("Card A") < once.index("Card B")


def test_rates_of_other_devices_stay(tmp_path, table):
    file = tmp_path / "rates.csv"
    bench.save_rates(table, "Card A", file)
    bench.save_rates(table.assign(median=table["median"] * 2), "Card B", file)
    bench.save_rates(table, "Card B", file)
    rates = pd.read_csv(file)
    assert list(rates.columns) == RATES
    assert dict(zip(rates.device, rates.images_per_second, strict=True)) == {"Card A": 190.0, "Card B": 190.0}
    assert set(rates.model) == {"deit3_base_patch16_224"}


def test_images_are_photo_like_and_the_same_everywhere(tmp_path):
    bench_loops.write_images(tmp_path, 3, distinct=2)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and files[2].read_bytes() == files[0].read_bytes() != files[1].read_bytes()
    assert 20_000 < files[0].stat().st_size < 200_000  # ImageNet's validation images: 130 kB on average
    one, again = (np.asarray(bench_loops.photo_like(np.random.default_rng([bench_loops.SEED, 0]))) for _ in "12")
    spectrum = np.abs(np.fft.rfft2(one.mean(axis=2)))
    assert np.array_equal(one, again) and spectrum[:20, :20].mean() > 20 * spectrum[100:150, 100:150].mean()


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_loops, "experiments", lambda: ["none", "scale=1", "scale=2"])
    page = tmp_path / "benchmarks.md"
    arguments = ["--device", "cpu", "--models", "mini_convnext", "--images", "4", "--sweep-images", "1"]
    assert bench.main([*arguments, "--seconds", "0.05", "--repeats", "1", "--out", str(page)]) == 0
    text = page.read_text()
    for loop in bench.LOOPS.values():
        assert f"| mini ConvNeXt | {loop} |" in text
    assert "| 1 x |" in text and "| 3 x |" in text
    assert "written to" in capsys.readouterr().out


def test_unknown_models_are_one_message(capsys):
    assert bench.main(["--models", "vit_bas"]) == 2
    assert "vit_base" in capsys.readouterr().err


def test_loops_see_the_same_pixels(tmp_path):
    """The input of timm's loader equals that of the loop per experiment, which is the engine's before normalisation."""
    from timm.data import create_dataset, create_loader

    from beyond_accuracy.models.load import model_for

    profile, card = bench._setup("mini_vit", *bench.MODELS["mini_vit"][1:], tmp_path / "m")
    data = load_dataset(bench._dataset(tmp_path / "set", "mini_world", 2))
    model = model_for(card, profile.settings, profile.imports)
    plain = bench_loops._Transformed(data, model, "none")
    geometry, quiet = card.geometry, {"use_prefetcher": False, "num_workers": 0, "persistent_workers": False}
    loader = create_loader(
        create_dataset("", root=str(tmp_path / "set")), input_size=(3, 48, 48), batch_size=2, mean=card.mean,
        std=card.std, interpolation=geometry.interpolation, crop_pct=geometry.crop / geometry.resize,
        device=torch.device("cpu"), **quiet,
    )  # fmt: skip
    images, _ = next(iter(loader))
    torch.testing.assert_close(images, torch.stack([plain[0][0], plain[1][0]]))
