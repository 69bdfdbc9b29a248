"""A real network on real images, through the command line: the whole path a user's model takes."""

import pandas as pd

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
