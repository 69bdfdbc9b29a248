"""Weights are found without the network, and a machine without network is noticed at once."""

import os
import socket
import subprocess
import sys
import time

import pytest
from PIL import Image

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.profile import ModelSpec, load_profile
from beyond_accuracy.data import download
from beyond_accuracy.models import card

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path))
    download.hub_reachable.cache_clear()
    yield
    download.hub_reachable.cache_clear()


def test_repositories_of_the_paper():
    found = {name: card.locate(spec) for name, spec in load_profile("paper").models.items()}
    assert {name: place.repo for name, place in found.items()} == {
        "vit_sup": "timm/deit3_base_patch16_224.fb_in22k_ft_in1k",
        "convnext_sup": "timm/convnext_base.fb_in22k_ft_in1k",
        "vit_clip": "timm/vit_base_patch16_clip_224.laion400m_e31",
        "convnext_clip": "laion/CLIP-convnext_base-laion400M-s13B-b51K",
    }
    assert "model.safetensors" in found["vit_sup"].files
    assert "open_clip_pytorch_model.bin" in found["convnext_clip"].files


def test_local_files_and_folders(tmp_path):
    file = tmp_path / "w.safetensors"
    spec = ModelSpec("m", "timm", "convnext_base", checkpoint="w.safetensors")
    assert card.locate(spec).path is None and str(file) in card.locate(spec).place
    file.write_bytes(b"x")
    assert card.locate(spec).path == file
    folder = tmp_path / "clip"
    folder.mkdir()
    spec = ModelSpec("m", "open_clip", f"local-dir:{folder}")
    assert card.locate(spec).path is None and card.locate(spec).repo == ""
    (folder / "open_clip_model.safetensors").write_bytes(b"x")
    assert card.locate(spec).path == folder / "open_clip_model.safetensors"
    assert card.locate(ModelSpec("m", "predictions")) is None
    assert card.locate(ModelSpec("m", "open_clip", "ViT-B-16", pretrained="w.safetensors")).path == file


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("m", "timm", "nothing_like_this"), "timm knows no downloadable weights"),
        (ModelSpec("m", "open_clip", "ViT-B-16", "nothing"), "open_clip knows no downloadable weights 'nothing'"),
        (ModelSpec("m", "timm", "resnet50.tv2_in1l"), "did you mean resnet50.tv2_in1k"),
        *(
            (ModelSpec("m", "timm", f"hf-hub:{name}"), "m: .* is no repository of the hub; expected hf-hub:OWNER/NAME")
            for name in ("../../etc", "", "a/b/c", "owner/na me")
        ),
    ],
)
def test_names_without_weights(spec, message):
    with pytest.raises(InputError, match=message):
        card.locate(spec)


def test_a_hub_that_answers_or_does_not(monkeypatch):
    reachable = download.hub_reachable.__wrapped__
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not reachable()
    with socket.create_server(("127.0.0.1", 0)) as server, monkeypatch.context() as answering:
        answering.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert reachable()
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert reachable()  # only the client knows how to use the proxy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not reachable()


def test_a_hub_that_hangs(monkeypatch):
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(5) or socket.socket())
    start = time.monotonic()
    assert not download.hub_reachable()
    assert time.monotonic() - start < 4


def test_only_hub_models_ask_for_the_hub(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"x")
    assert card.may_need_hub(ModelSpec("m", "timm", "convnext_base"))
    assert card.may_need_hub(ModelSpec("m", "open_clip", "ViT-B-16", pretrained="laion400m_e31"))
    for spec in (
        ModelSpec("m", "predictions"),
        ModelSpec("m", "timm", "convnext_base", checkpoint="w.pt"),
        ModelSpec("m", "timm", "local-dir:assets:mini_world/models/vit_sup"),
        ModelSpec("m", "open_clip", "ViT-B-16", pretrained="w.pt"),
    ):
        assert not card.may_need_hub(spec), spec


def test_missing_weights_without_network_take_no_retries(tmp_path):
    """The whole command, in a process of its own: one clear message, exit code 3, no half minute per file."""
    images = tmp_path / "images" / "n01440764"
    images.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(images / "a.png")
    environment = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "beyond_accuracy.cli", "predict", "--profile", "paper", "--model", "convnext_clip"]
    command += ["--dataset", str(images.parent), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "Retrying" not in done.stderr and "fetch --only models" in done.stderr


def test_tokenizers_that_transformers_reads():
    siglip = ModelSpec("m", "open_clip", "ViT-B-16-SigLIP", "webli")
    assert card.tokenizer_source(siglip) == "timm/ViT-B-16-SigLIP"
    assert card.tokenizer_source(ModelSpec("m", "open_clip", "ViT-B-16", "openai")) == ""
    assert card.tokenizer_source(ModelSpec("m", "timm", "resnet50")) == ""
    assert card.missing_tokenizer(siglip) in ("package", "files")  # neither is part of the tests' environment
