"""Which precision pays on a device; what is measured of a machine is measured once."""

import json

import pytest
import torch

from beyond_accuracy.inference import precision


@pytest.mark.parametrize(("gain", "expected"), [(1.9, "bf16"), (1.3, "bf16"), (1.1, "fp32"), (0.05, "fp32")])
def test_bf16_where_it_pays(tmp_path, gain, expected):
    assert precision.cpu_precision(tmp_path / "c.json", lambda: gain) == expected


def test_measured_once_per_processor_and_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    calls = []

    def measure():
        calls.append(1)
        return 2.0

    assert {precision.cpu_precision(measure=measure) for _ in range(3)} == {"bf16"} and len(calls) == 1
    precision.cpu_precision(measure=measure, name="another")
    assert len(calls) == 2
    known = json.loads((tmp_path / "calibration.json").read_text())
    assert len(known) == 2 and known[f"another; torch {torch.__version__.partition('+')[0]}"] == {"bf16_gain": 2.0}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_file_is_measured_anew(tmp_path, content):
    file = tmp_path / "c.json"
    file.write_text(content)
    assert precision.cpu_precision(file, lambda: 2.0) == "bf16"
    assert "bf16_gain" in file.read_text()


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert precision.cpu_precision(tmp_path / "taken" / "c.json", lambda: 0.5) == "fp32"


def test_the_measurement_itself():
    before = torch.get_num_threads()
    assert precision.bf16_gain() > 0
    assert torch.get_num_threads() == before


def test_precision_by_device(monkeypatch):
    assert precision.choose_precision("fp16", "auto") == "fp16"
    assert precision.choose_precision("auto", "mps") == "fp32"
    for kind in ("fp32", "bf16"):
        assert precision.choose_precision("auto", "cpu", lambda kind=kind: kind) == kind
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert precision.choose_precision("auto", "auto") == precision.choose_precision("auto", "cuda:0") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert precision.choose_precision("auto", "cuda") == "fp32"
