"""A real network on real images, through the command line: the whole path a user's model takes."""

import pandas as pd
import yaml

from beyond_accuracy.cli import main


def test_efficientnet_on_the_imagenet_sample(shared_dir, efficientnet_lite0, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "store"))
    command = ["predict", "--profile", "predictions", "--model", "timm:tf_efficientnet_lite0", "--device", "cpu"]
    command += ["--checkpoint", str(efficientnet_lite0), "--dataset", str(shared_dir / "data" / "imagenet_sample")]
    output = tmp_path / "rows.parquet"
    assert main([*command, "--output", str(output)]) == 0
    assert "top-1" in capsys.readouterr().out
    rows = pd.read_parquet(output)
    assert list(rows.columns) == ["id", "target", "pred", "confidence", "target_probability", "logits"]
    assert len(rows) == 200 and rows["id"].is_unique and rows["target"].nunique() == 200
    accuracy = (rows["pred"] == rows["target"]).mean()
    assert 0.80 <= accuracy <= 0.95
    assert len(rows["logits"][0]) == 1000


def test_the_report_of_a_profile_of_ones_own(shared_dir, efficientnet_lite0, kernels, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEYOND_ACCURACY_ROOT", str(tmp_path))
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "store"))
    sample = {"reader": "class_folder", "path": str(shared_dir / "data" / "imagenet_sample"), "title": "Sample"}
    profile = {
        "name": "mine",
        "models": {"lite0": {"source": "timm", "name": "tf_efficientnet_lite0", "checkpoint": str(efficientnet_lite0)}},
        "datasets": {"sample": sample},
        "dimensions": {"models": {"clean": "sample"}},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    assert main(["report", "--profile", str(path), "--device", "cpu", "--parameter", "TIMING_SECONDS=0.2"]) == 0, (
        capsys.readouterr().out
    )
    results = pd.read_csv(tmp_path / "report" / "mine" / "results.csv")
    row = results[(results["metric"] == "accuracy") & (results["model"] == "lite0")].iloc[0]
    assert 80 <= row["value"] <= 95 and row["n"] == 200
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert (tmp_path / "report" / "mine" / "index.html").is_file()
