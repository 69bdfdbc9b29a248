"""Which precision pays on a device; what is measured of a machine is measured once."""

import json

import pytest
import torch

from beyond_accuracy.inference import jobs


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path))
    return tmp_path / "calibration.json"


@pytest.mark.parametrize(("gain", "expected"), [(1.9, "bf16"), (1.3, "bf16"), (1.1, "fp32"), (0.05, "fp32")])
def test_bf16_where_it_pays(file, gain, expected):
    assert jobs.cpu_precision(lambda: gain) == expected


def test_measured_once_per_processor_and_torch(file, monkeypatch):
    gains = iter([2.0, 1.0])
    assert {jobs.cpu_precision(lambda: next(gains)) for _ in range(3)} == {"bf16"}
    monkeypatch.setattr(jobs, "processor", lambda: "another")
    assert jobs.cpu_precision(lambda: next(gains)) == "fp32"
    known = json.loads(file.read_text())
    assert len(known) == 2 and known[f"another; torch {torch.__version__.partition('+')[0]}"] == {"bf16_gain": 1.0}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_file_is_measured_anew(file, content):
    file.write_text(content)
    assert jobs.cpu_precision(lambda: 2.0) == "bf16" and "bf16_gain" in file.read_text()


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("BEYOND_ACCURACY_CACHE", str(tmp_path / "taken"))
    assert jobs.cpu_precision(lambda: 0.5) == "fp32"


def test_the_measurement_itself():
    before = torch.get_num_threads()
    assert jobs.bf16_gain() > 0 and torch.get_num_threads() == before


def test_precision_by_device(monkeypatch):
    assert jobs.choose_precision("fp16", "auto") == "fp16"
    assert jobs.choose_precision("auto", "mps") == "fp32"
    for kind in ("fp32", "bf16"):
        monkeypatch.setattr(jobs, "cpu_precision", lambda kind=kind: kind)
        assert jobs.choose_precision("auto", "cpu") == kind
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert jobs.choose_precision("auto", "auto") == jobs.choose_precision("auto", "cuda:0") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert jobs.choose_precision("auto", "cuda") == "fp32"
