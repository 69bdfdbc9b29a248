"""The towers: registered with timm, matched in size, buildable by open_clip, and loadable after export."""

import json

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F

from mini_world import architectures
from mini_world.export import save_clip, save_supervised
from mini_world.train_data import TokenTable

TOWERS = (architectures.VIT, architectures.CONVNEXT)
WORDS = ["a photo of a car", "a picture of an umbrella on the left"]


@pytest.mark.parametrize("name", [*TOWERS, architectures.REFERENCE])
def test_registered_with_timm(name):
    model = timm.create_model(name, num_classes=16).eval()
    for size in (48, 64):  # the resolutions of training
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 16)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 48, 48), 1.0, "bicubic")


def test_towers_match_in_parameters():
    counts = [architectures.parameter_count(timm.create_model(name, num_classes=16)) for name in TOWERS]
    assert max(counts) / min(counts) < 1.15
    assert all(1.4e6 < count < 2.1e6 for count in counts)


@pytest.mark.parametrize("name", TOWERS)
def test_clip_holds_the_same_tower(name):
    clip = architectures.build_clip(name, vocab_size=40)
    supervised = architectures.build_supervised(name, 16)
    trunk, alone = ({k: v.shape for k, v in m.state_dict().items()} for m in (clip.visual.trunk, supervised))
    head = ("head.weight", "head.bias", "head.fc")
    assert trunk == {name: shape for name, shape in alone.items() if not name.startswith(head)}


@pytest.mark.parametrize("name", TOWERS)
def test_exported_classifier_loads_through_timm(name, tmp_path):
    torch.manual_seed(0)
    model = architectures.build_supervised(name, 3).eval()
    save_supervised(model, ("cat", "dog", "hat"), tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model.half().float()(images), rtol=1e-5, atol=1e-5)
    assert tuple(loaded.pretrained_cfg["mean"]) == architectures.MEAN
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == ["cat", "dog", "hat"]
    assert timm.data.resolve_model_data_config(loaded)["crop_pct"] == architectures.CROP_PCT


@pytest.mark.parametrize("name", TOWERS)
def test_exported_clip_loads_through_open_clip(name, tmp_path):
    torch.manual_seed(0)
    table = TokenTable.of_texts(WORDS)
    model = architectures.build_clip(name, len(table)).eval()
    save_clip(model, name, table, tmp_path)
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    loaded.eval()
    tokens, images = TokenTable.load(tmp_path)(WORDS), torch.randn(4, 3, 48, 48)
    model.half().float()
    with torch.no_grad():
        for given, encode in ((images, "encode_image"), (tokens, "encode_text")):
            ours, theirs = (F.normalize(getattr(m, encode)(given), dim=-1) for m in (model, loaded))
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded.logit_scale, model.logit_scale)
    normalize = preprocess.transforms[-1]
    assert tuple(normalize.mean) == architectures.MEAN and tuple(normalize.std) == architectures.STD
