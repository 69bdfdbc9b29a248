"""What is measured of a machine is measured once."""

import json

import pytest
import torch

from beyond_accuracy import calibration


@pytest.mark.parametrize(("gain", "expected"), [(1.9, "bf16"), (1.3, "bf16"), (1.1, "fp32"), (0.05, "fp32")])
def test_bf16_where_it_pays(tmp_path, monkeypatch, gain, expected):
    monkeypatch.setattr(calibration, "bf16_gain", lambda: gain)
    assert calibration.cpu_precision(tmp_path / "c.json") == expected


def test_measured_once_per_processor_and_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(calibration, "bf16_gain", lambda: calls.append(1) or 2.0)
    assert {calibration.cpu_precision() for _ in range(3)} == {"bf16"} and len(calls) == 1
    monkeypatch.setattr(calibration, "processor", lambda: "another")
    calibration.cpu_precision()
    assert len(calls) == 2
    known = json.loads((tmp_path / "calibration.json").read_text())
    assert len(known) == 2 and known[f"another; torch {torch.__version__.partition('+')[0]}"] == {"bf16_gain": 2.0}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_file_is_measured_anew(tmp_path, monkeypatch, content):
    monkeypatch.setattr(calibration, "bf16_gain", lambda: 2.0)
    file = tmp_path / "c.json"
    file.write_text(content)
    assert calibration.cpu_precision(file) == "bf16"
    assert "bf16_gain" in file.read_text()


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "bf16_gain", lambda: 0.5)
    (tmp_path / "taken").write_text("a file")
    assert calibration.cpu_precision(tmp_path / "taken" / "c.json") == "fp32"


def test_the_measurement_itself():
    before = torch.get_num_threads()
    assert calibration.bf16_gain() > 0
    assert torch.get_num_threads() == before
