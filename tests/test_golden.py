"""Nothing moves a number unnoticed, and no sentence says what the tables do not: whole reports (tools/golden.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import golden
import sentences
from beyond_accuracy.base.profile import load_profile


def command(root: Path, *words: str) -> None:
    """Run a command of the project in a folder of its own, from an empty store."""
    environment = {**os.environ, "BEYOND_ACCURACY_ROOT": str(root), "BEYOND_ACCURACY_CACHE": str(root / "store")}
    line = [sys.executable, "-m", "beyond_accuracy.cli", *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr


def unsupported(profile: str, root: Path, models: str = "") -> list[str]:
    """What the findings of a built report say that its tables do not."""
    labels = {name: spec.label for name, spec in load_profile(profile).select(models).models.items()}
    return sentences.check(root / "report" / profile, root / "figures" / profile, labels)


@pytest.mark.parametrize("profile", ["smoke", pytest.param("mini", marks=pytest.mark.slow)])
def test_a_report_says_what_it_said_and_what_its_tables_say(profile, tmp_path):
    command(tmp_path, "report", "--profile", profile, "--device", "cpu")
    built = golden.collect(tmp_path / "report" / profile, tmp_path / "figures" / profile)
    assert golden.moved(golden.read(golden.GOLDEN / profile), built) == []
    assert unsupported(profile, tmp_path) == []


@pytest.mark.slow
def test_a_report_on_imported_predictions_says_what_its_tables_say(shared_dir, tmp_path):
    """The two models whose predictions ImageNet-X publishes, all 50,000 images of each."""
    pytest.importorskip("imagenet_x", reason="the validation labels come with the optional package imagenet-x")
    for model in ("ResNet50", "ViT"):
        path = shared_dir / "data" / "predictions" / f"{model}.csv"
        command(tmp_path, "import-predictions", str(path), "--model", model, "--dataset", "imagenet_1k")
    command(tmp_path, "report", "--profile", "predictions", "--models", "ResNet50,ViT")
    said = golden.collect(tmp_path / "report" / "predictions", tmp_path / "figures" / "predictions")["findings"]
    assert set(said["dimension"]) == {"models", "mistakes", "calibration", "robustness"}
    assert unsupported("predictions", tmp_path, "ResNet50,ViT") == []


def test_a_moved_number_a_lost_row_and_another_sentence_are_seen():
    frozen = golden.read(golden.GOLDEN / "smoke")
    assert golden.moved(frozen, frozen) == []
    results, sentences = frozen["results"].copy(), frozen["findings"].copy()
    column = results.columns.get_loc("value")
    results.iloc[3, column] = results.iloc[3, column] + 0.01
    sentences.iloc[0, 1] = "Something else."
    changed = golden.moved(frozen, {**frozen, "results": results.iloc[:-1], "findings": sentences})
    assert sorted(line.split(": ")[0] for line in changed) == ["findings", "findings", "results", "results"]
    assert sum(" value " in line for line in changed) == 1 and sum("results: gone" in line for line in changed) == 1
