"""Models load as their libraries load them, and say clearly when they do not."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fixtures_datasets as fixtures  # noqa: E402 - the folder of tests is on no import path
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.profile import ModelSpec, Settings
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.models import load
from beyond_accuracy.models.card import locate
from beyond_accuracy.models.load import load_model
from beyond_accuracy.models.network import tokenizer

LIBRARY = Settings(precision="fp32")


def photograph(size=(217, 171)):
    rng = np.random.default_rng(11)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def close(ours, theirs):
    """Equal but for the last bits, which depend on where in memory a tensor happens to lie."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def prepared(model):
    pixels = torch.from_numpy(np.array(model.geometry.apply(photograph()))).permute(2, 0, 1)[None]
    return model.normalize(pixels)


def timm_folder(root, name, n_classes=5, **overrides):
    """A randomly initialised timm model as a `local-dir:` folder."""
    import timm

    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=n_classes)
    folder = root / name
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    config = {k: v for k, v in network.pretrained_cfg.items() if v is not None and k not in ("url", "hf_hub_id")}
    content = {"architecture": name, "num_classes": n_classes, "pretrained_cfg": config | overrides}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return timm_folder(tmp_path_factory.mktemp("timm"), "test_vit", crop_pct=0.95, mean=[0.5, 0.4, 0.3])


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    return timm_folder(tmp_path_factory.mktemp("timm"), "test_convnext")


def spec_of(folder, source="timm"):
    return ModelSpec("m", source, id=f"local-dir:{folder}")


def loaded(folder, source="timm", settings=LIBRARY):
    return load_model(spec_of(folder, source), settings, ("toy_networks",) if folder.name == "colour" else ())


# timm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_timm_preprocessing_logits_and_features(name, request):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    folder = request.getfixturevalue(name)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    model = loaded(folder)
    x = create_transform(**resolve_model_data_config(network))(photograph())[None]
    assert torch.equal(prepared(model), x)
    with torch.inference_mode():
        out = model.outputs(x, None, features=True)
        close(out["logits"], network(x))
        close(out["features-pre_logits"], network.forward_head(network.forward_features(x), True))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.outputs(x, None)["logits"]
            assert model.network(x).dtype == torch.bfloat16  # what it would be
    # the classifier runs in float32 under autocast
    assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(logits, out["logits"], rtol=0, atol=0.05)
    assert model.card.parameters == sum(p.numel() for p in network.parameters()) and model.card.logit_scale is None
    assert not any(module.training for module in model.network.modules())
    assert not any(p.requires_grad for p in model.network.parameters())


def test_paper_preset_is_for_supervised_models(vit, toy):
    paper = Settings(preset="paper")
    assert loaded(vit, settings=paper).geometry.text == "Resize(182, bilinear) CenterCrop(160)"  # int(160 * 256 / 224)
    assert loaded(vit).geometry.text == "Resize(168, bicubic) CenterCrop(160)"
    folder = toy.clip()
    assert loaded(folder, "open_clip", paper).geometry == loaded(folder, "open_clip").geometry


@pytest.mark.parametrize("size", [96, 224])
def test_timm_at_another_size(vit, size):
    """The same as timm's own `img_size=` at loading, which resamples the stored position embeddings."""
    import timm

    theirs = timm.create_model(f"local-dir:{vit}", pretrained=True, img_size=size).eval()
    model = loaded(vit)
    resized = model.at_size(size)
    x = torch.rand(1, 3, size, size)
    close(resized.network.pos_embed, theirs.pos_embed)
    with torch.inference_mode():
        close(resized.outputs(x, None)["logits"], theirs(x))
        model.outputs(torch.rand(1, 3, 160, 160), None)  # the original is untouched
    own = dict(model.network.named_parameters())
    assert [name for name, p in resized.network.named_parameters() if p is not own[name]] == ["pos_embed"]
    assert resized.geometry.text == f"Resize({int(size / 0.95)}, bicubic) CenterCrop({size})"


def test_sizes_that_cannot_be(vit, convnext):
    with pytest.raises(InputError, match="no multiple of the patch size 16"):
        loaded(vit).at_size(100)
    model = loaded(convnext)
    assert model.at_size(100).outputs(torch.rand(1, 3, 100, 100), None)["logits"].shape == (1, 5)
    fixed = replace(model, network=torch.nn.Identity(), card=replace(model.card, patch=16))
    with pytest.raises(InputError, match="m: cannot take inputs of side 320"):
        fixed.at_size(320)


# open_clip -----------------------------------------------------------------------------------------------------------

COLOURS = ClassSpace("c", ("r", "g", "b"), ("red", "green", "blue"), ("a {c} photo.", "{c}", "the {c} {c}"))


def test_open_clip_preprocessing_head_logits_and_features(toy):
    import open_clip

    folder = toy.clip()
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    network.eval()
    model = loaded(folder, "open_clip")
    x = preprocess(photograph())[None]
    assert torch.equal(prepared(model), x)
    head = model.head(COLOURS, torch.device("cpu"))
    templates = [lambda c: f"a {c} photo.", lambda c: c, lambda c: f"the {c} {c}"]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    expected = open_clip.build_zero_shot_classifier(network, tokenizer, COLOURS.names, templates)
    assert torch.equal(head, expected) and head.shape == (16, 3)
    with torch.inference_mode():
        out = model.outputs(x, head, features=True)
        projected = network.encode_image(x)
        torch.testing.assert_close(out["features-projected"], projected)
        torch.testing.assert_close(out["features-trunk"] @ network.visual.proj, projected)
        scale = network.logit_scale.exp()
        torch.testing.assert_close(out["logits"], scale * network.encode_image(x, normalize=True) @ expected)
        assert network.visual.proj is not None and torch.equal(network.encode_image(x), projected)
    assert out["features-trunk"].shape == (1, 32) and model.card.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert model.card.parameters == sum(p.numel() for p in network.visual.parameters())


def test_open_clip_with_a_timm_tower(toy):
    import open_clip

    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    preprocess = {"interpolation": "bilinear", "resize_mode": "squash"}
    folder = toy.clip("tower", vision=vision | {"image_size": 64}, preprocess=preprocess)
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = loaded(folder, "open_clip")
    x = preprocess(photograph())[None]
    assert torch.equal(prepared(model), x)
    assert model.geometry.mode == "squash" and model.card.patch == 16
    with torch.inference_mode():
        out = model.outputs(x, torch.rand(16, 3), features=True)
        torch.testing.assert_close(out["features-projected"], network.eval().encode_image(x))
        torch.testing.assert_close(out["features-trunk"], network.visual.trunk(x))
        larger = open_clip.create_model(f"local-dir:{folder}", force_image_size=96).eval()
        y = torch.rand(1, 3, 96, 96)
        resized = model.at_size(96).outputs(y, torch.rand(16, 3), features=True)
        torch.testing.assert_close(resized["features-projected"], larger.encode_image(y))


@pytest.mark.parametrize("size", [24, 64])
def test_open_clip_at_another_size(toy, size):
    """The same as open_clip's own `force_image_size=`."""
    import open_clip

    folder = toy.clip()
    theirs = open_clip.create_model(f"local-dir:{folder}", force_image_size=size).eval()
    model = loaded(folder, "open_clip")
    x = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        out = model.at_size(size).outputs(x, torch.rand(16, 3), features=True)
        torch.testing.assert_close(out["features-projected"], theirs.encode_image(x))
        model.outputs(torch.rand(1, 3, 32, 32), torch.rand(16, 3))
    with pytest.raises(InputError, match="no multiple of the patch size 8"):
        model.at_size(size + 1)


def test_logit_scale_is_a_convention(toy):
    folder = toy.clip()
    learned, hundred = (loaded(folder, "open_clip", how) for how in (LIBRARY, Settings(logit_scale="100")))
    x, head = torch.rand(2, 3, 32, 32), torch.nn.functional.normalize(torch.rand(16, 3), dim=0)
    with torch.inference_mode():
        ratio = hundred.outputs(x, head)["logits"] / learned.outputs(x, head)["logits"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 100 / learned.card.logit_scale))
    scales = [card.key_parts(COLOURS)["logit_scale"] for card in (learned.card, hundred.card)]
    assert scales == [learned.card.logit_scale, 100.0]
    assert learned.card.key_parts(None)["logit_scale"] is None  # features know no scale


def test_a_token_table_maps_to_ranks(toy):
    import open_clip

    folder = toy.clip()
    spec = spec_of(folder, "open_clip")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red photo.", "red"])
    kept = sorted(set(tokens.flatten().tolist()))
    (folder / "token_table.json").write_text(json.dumps(kept))
    assert torch.equal(torch.tensor(kept)[tokenizer(spec)(["a red photo.", "red"])], tokens)
    with pytest.raises(InputError, match="outside the model's vocabulary"):
        tokenizer(spec)(["a zebra"])


# What libraries only warn about ---------------------------------------------------------------------------------------


class Asked(RuntimeError):
    """What a library was asked for, in place of the network."""


@pytest.fixture
def asked(monkeypatch):
    """What open_clip would be asked to build for a spec, without building it."""

    def create_model(name, pretrained=None, **how):
        raise Asked(json.dumps({"pretrained": pretrained, **how}))

    def ask(spec):
        with pytest.raises(InputError) as caught:
            load_model(spec, LIBRARY)
        if not isinstance(caught.value.__cause__, Asked):
            raise caught.value
        return json.loads(str(caught.value.__cause__))

    monkeypatch.setattr("open_clip.create_model", create_model)
    return ask


def test_every_tag_of_open_clip_has_its_own_preprocessing_and_activation(asked, tmp_path):
    """Whether its weights come from the hub or from a file; a file alone only where all tags agree."""
    import open_clip

    file = tmp_path / "weights.pt"
    file.write_bytes(b"x")
    repaired, refused = 0, []
    for name in {name for name, _ in open_clip.list_pretrained()}:
        tags = open_clip.list_pretrained_tags_by_model(name)
        kinds = set()
        for tag in tags:
            hub, local = (asked(ModelSpec("m", "open_clip", name, tag, file)) for file in ("", str(file)))
            assert hub.pop("pretrained") == tag and local.pop("pretrained") == str(file) and hub == local
            config = open_clip.get_pretrained_cfg(name, tag)
            own = bool(open_clip.get_model_config(name).get("quick_gelu"))
            assert (own or hub.get("force_quick_gelu", False)) >= bool(config.get("quick_gelu"))
            repaired += "force_quick_gelu" in hub
            wanted = {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if config.get(k)}
            assert hub["force_preprocess_cfg"] == json.loads(json.dumps(wanted)), (name, tag)
            kinds.add(json.dumps([wanted, bool(config.get("quick_gelu"))]))
        if len(kinds) == 1:
            alone = asked(ModelSpec("m", "open_clip", name, str(file)))
            assert alone["force_preprocess_cfg"] == hub["force_preprocess_cfg"]
        else:
            refused.append(name)
            with pytest.raises(InputError, match="differ in preprocessing or activation.*`checkpoint:`"):
                load_model(ModelSpec("m", "open_clip", name, str(file)), LIBRARY)
    assert repaired == 27  # of 196: all of OpenAI's under their plain names, MetaCLIP's, DFN's, LAION's first
    assert {"ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-H-14"} <= set(refused) and "ViT-B-16-SigLIP" not in refused


def test_every_model_of_the_board_that_timm_has(monkeypatch):
    """Preprocessing as timm resolves it for the tag; where its accuracy was published at another side, that too."""
    import timm
    from timm.data import resolve_data_config

    from beyond_accuracy.data.published import leaderboard

    def create_model(name, **_):
        network = torch.nn.Identity()
        network.pretrained_cfg, network.num_classes = timm.get_pretrained_cfg(name).to_dict(), 1000
        return network

    monkeypatch.setattr("timm.create_model", create_model)
    board = [name for name in leaderboard()["model"] if timm.is_model(name) and "." in name]
    published, sides, away = {}, leaderboard().set_index("model")["img_size"], set()
    for name in board:
        card = load_model(ModelSpec("m", "timm", name), LIBRARY).card
        theirs = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        ours = (card.geometry.crop, card.geometry.crop_pct, card.geometry.interpolation, card.mean, card.std)
        assert ours == (theirs["input_size"][-1], *(theirs[k] for k in ("crop_pct", "interpolation", "mean", "std")))
        if card.published:
            published[name] = card.published.text
        if card.geometry.crop != sides[name]:  # run as trained it is not what stands on the board
            assert card.published.crop == sides[name]
            away.add(name)
    assert published["resnet50.tv2_in1k"] == "Resize(232, bilinear) CenterCrop(224)"
    torchvision = ("resnet50", "resnet101", "resnet152", "resnext101_32x8d")
    usual = {"resnet50.a1h_in1k", "resnet50.a3_in1k", "dm_nfnet_f0.dm_in1k"}
    assert len(board) == 189 and away == usual | {f"{name}.tv2_in1k" for name in torchvision}
    other = load_model(ModelSpec("m", "timm", "resnet50.tv2_in1k"), Settings(side="published")).card
    assert other.geometry == other.published and other.geometry.crop == 224


def test_a_file_of_an_architecture_whose_published_weights_differ(tmp_path):
    save_file({"fc.weight": torch.zeros(7, 2048)}, tmp_path / "w.safetensors")
    spec = ModelSpec("m", "timm", "resnet50", checkpoint=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"published weights of resnet50 differ.*`name:` \(with its tag\)"):
        load_model(spec, LIBRARY)
    with pytest.raises(InputError, match="do not load: .*conv1.weight"):  # with a tag it is loaded, and is no ResNet
        load_model(replace(spec, id="resnet50.a1_in1k"), LIBRARY)


def test_a_fine_tuned_head_has_as_many_classes_as_its_weights(convnext, capsys):
    spec = ModelSpec("m", "timm", "test_convnext", checkpoint=str(convnext / "model.safetensors"))
    card = load_model(spec, LIBRARY).card
    assert card.n_classes == 5 and card.notes == ("5 classes, as in model.safetensors",)
    assert capsys.readouterr().err == "m: 5 classes, as in model.safetensors\n"


def test_what_a_library_warns_of_is_passed_on_or_refused(toy, toy_networks, monkeypatch):
    import logging
    import warnings

    import timm

    original, said = timm.create_model, []

    def create_model(*a, **k):
        for words in said:
            warnings.warn(words, UserWarning, stacklevel=1)
            logging.getLogger("timm.models").warning("logged: " + words)
        return original(*a, **k)

    monkeypatch.setattr(timm, "create_model", create_model)
    spec = spec_of(toy.checkpoint())
    said.append("Mapping deprecated model name")
    card = load_model(spec, LIBRARY, ("toy_networks",)).card
    assert card.notes == ("logged: Mapping deprecated model name", "Mapping deprecated model name")
    said.append("QuickGELU mismatch between final model config and tag")
    with pytest.raises(InputError, match="would not be the model that was trained: .*QuickGELU mismatch"):
        load_model(spec, LIBRARY, ("toy_networks",))


def test_a_prompt_that_the_text_tower_cannot_read_whole(toy):
    folder = toy.clip()
    model = loaded(folder, "open_clip")
    assert model.card.context == 77 and model.card.activation == "GELU"
    device = torch.device("cpu")
    fits = ClassSpace("c", ("r",), ("red " * 70,), ("{c}",))  # 70 tokens and the two ends
    assert model.head(fits, device).shape == (16, 1)
    with pytest.raises(InputError, match="text tower reads 77 tokens, and would not see the end of the prompt 'red"):
        model.head(replace(fits, names=("red " * 76,)), device)


def edited(file, section, **changes):
    """A section of a JSON file with other values."""
    content = json.loads(file.read_text())
    (content[section] if section else content).update(changes)
    file.write_text(json.dumps(content))


def test_code_that_comes_with_a_model_is_refused(toy):
    folder = toy.clip()
    config = folder / "open_clip_config.json"
    before = config.read_text()
    text = {**json.loads(before)["model_cfg"]["text_cfg"], "hf_tokenizer_name": "x"}
    for asks in ({"tokenizer_kwargs": {"trust_remote_code": True}}, {"hf_model_config": {"auto_map": {}}}):
        edited(config, "model_cfg", text_cfg=text | asks)
        with pytest.raises(InputError, match="asks to run code that comes with it .*; it was not loaded"):
            loaded(folder, "open_clip")
    config.write_text(before)
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    with pytest.raises(InputError, match="asks to run code"):
        loaded(folder, "open_clip")
    with pytest.raises(InputError, match="brings its weights; drop 'w.pt'"):
        load_model(replace(spec_of(folder, "open_clip"), pretrained="w.pt"), LIBRARY)


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (ModelSpec("m", "timm", id="local-dir:/nowhere/at/all"), DataMissing, "not found"),
        (ModelSpec("m", "timm", id="resnet50", checkpoint="/nowhere/w.safetensors"), DataMissing, "not found"),
        (ModelSpec("m", "open_clip", id="ViT-B-16", pretrained="/nowhere/w.pt"), DataMissing, "not found"),
        (ModelSpec("m", "predictions"), InputError, "has no network to run"),
    ],
)
def test_what_has_no_weights(spec, error, message):
    with pytest.raises(error, match=message):
        load_model(spec, LIBRARY)
    with pytest.raises(InputError, match="'no_such_module' of the profile's `imports`"):
        load_model(spec, LIBRARY, ("no_such_module",))


@pytest.mark.parametrize("source", ["timm", "open_clip"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_that_the_hub_would_have(monkeypatch, source, wrapped):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        error = LocalEntryNotFoundError("Cannot find the requested files in the disk cache")
        raise RuntimeError(f"Failed to download weights: {error}") from error if wrapped else error

    monkeypatch.setattr(f"{source}.create_model", offline)
    spec = ModelSpec("m", source, "resnet50.a1_in1k" if source == "timm" else "ViT-B-16", pretrained="laion400m_e31")
    with pytest.raises(DataMissing, match="are not on this machine .*`beyond-accuracy fetch"):
        load_model(spec, LIBRARY)


def test_checkpoints_that_do_not_fit_or_are_damaged(convnext, tmp_path):
    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes((convnext / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "garbage.pth").write_bytes(b"not a checkpoint at all")
    do_not_load = "weights of test_convnext do not load"
    said = {"other.safetensors": do_not_load, "half.safetensors": do_not_load, "garbage.pth": "was not loaded"}
    for name, message in said.items():
        with pytest.raises(InputError, match=message):
            load_model(ModelSpec("m", "timm", id="test_convnext", checkpoint=str(tmp_path / name)), LIBRARY)
    folder = shutil.copytree(convnext, tmp_path / "seven")  # weights of five classes in a folder that promises seven
    edited(folder / "config.json", None, num_classes=7)
    with pytest.raises(InputError, match="do not load.*(7|5)"):
        loaded(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="do not load"):
        loaded(folder)
    folder = shutil.copytree(convnext, tmp_path / "oblong")
    edited(folder / "config.json", "pretrained_cfg", input_size=[3, 160, 128])
    with pytest.raises(InputError, match="expected square RGB"):
        loaded(folder)


class Exploit:
    """What a malicious pickle does: run something when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, toy):
    import open_clip

    target = tmp_path / "executed"
    plain, zipped, wrapped = files = [tmp_path / f"{name}.pth" for name in ("plain", "zipped", "wrapped")]
    plain.write_bytes(pickle.dumps(Exploit(target)))
    torch.save(Exploit(target), zipped)
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}, "epoch": Exploit(target)}, wrapped)
    small = json.loads((toy.clip("small") / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "toy-clip.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / "toy-clip.json")
    specs = [ModelSpec("m", "timm", id="test_convnext", checkpoint=str(path)) for path in files]
    specs += [ModelSpec("m", "open_clip", id="toy-clip", pretrained=str(path)) for path in files]
    # as the only weights of a local folder
    for folder, source, name in (
        (toy.checkpoint(), "timm", "pytorch_model.bin"),
        (toy.clip(), "open_clip", "open_clip_pytorch_model.bin"),
    ):
        next(folder.glob("*.safetensors")).unlink()
        (folder / name).write_bytes(zipped.read_bytes())
        specs.append(spec_of(folder, source))
    for spec in specs:
        with pytest.raises(InputError, match="was not loaded and nothing in it was run .* safetensors"):
            load_model(spec, LIBRARY, ("toy_networks",))
        assert not target.exists()
    pickle.loads(plain.read_bytes())  # the fixture itself does what it says
    assert target.exists()


# Cards ---------------------------------------------------------------------------------------------------------------


def test_a_card_is_read_without_the_network_until_something_changes(toy, monkeypatch):
    toy.checkpoint()
    spec = spec_of(toy.root / "colour")
    loaded = []
    original = load.load_model
    monkeypatch.setattr(load, "load_model", lambda *a: loaded.append(a) or original(*a))

    def card(spec=spec, settings=LIBRARY):
        return load.read_card(spec, settings, ("toy_networks",), toy.store)

    first = card()
    assert card() == first and len(loaded) == 1
    assert card(settings=Settings(preset="paper")).geometry.resize == 18 and len(loaded) == 1
    weights = toy.root / "colour" / "model.safetensors"
    save_file({"head.weight": 3 * torch.eye(3)}, weights)
    changed = card()
    assert len(loaded) == 2 and changed.weights != first.weights and changed.architecture == first.architecture
    os.utime(weights, ns=(1, 1))  # touched, not changed: read again, found the same
    assert card() == changed and len(loaded) == 3
    edited(toy.root / "colour" / "config.json", "pretrained_cfg", crop_pct=0.5)
    assert card().geometry.resize == 32 and len(loaded) == 4
    monkeypatch.setattr("importlib.metadata.version", lambda name: "another")
    assert card().geometry.resize == 32 and len(loaded) == 5
    for damage in ('{"files": [], "card": {"weights": 1}}', None):
        for file in (toy.store / "models").iterdir():
            file.write_text(damage or file.read_text().replace("bilinear", "bilineas").replace("1.0", "1.5"))
        assert card().geometry.interpolation == "bilinear"
    assert len(loaded) == 7


def test_a_checkpoint_replaced_by_one_of_the_same_size_and_time_is_noticed(toy):
    weights, other = toy.checkpoint() / "model.safetensors", toy.root / "other.safetensors"
    before, seen = weights.stat(), set()

    def in_place(source, target):
        target.write_bytes(source.read_bytes())

    for scale, put in ((0, None), (3, os.replace), (5, in_place)):
        if put:
            save_file({"head.weight": scale * torch.eye(3)}, other)
            put(other, weights)
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        seen.add(load.read_card(spec_of(toy.root / "colour"), LIBRARY, ("toy_networks",), toy.store).weights)
    assert len(seen) == 3


def test_cards_of_hub_models_follow_the_hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    spec, repository = ModelSpec("m", "timm", "hf-hub:timm/resnet"), tmp_path / "models--timm--resnet"
    current, weights = repository / "refs" / "main", repository / "snapshots" / "abc" / "model.safetensors"
    assert load.hub_files("timm/resnet") == []
    fixtures.write(current, "abc")
    assert load.hub_files("timm/resnet") == []
    fixtures.write(weights, b"1")
    assert load.hub_files("timm/resnet") == load.source_files(spec) == [current, weights]
    assert locate(spec).path == weights and locate(replace(spec, id="hf-hub:timm/other")).path is None
    for other in ("hf-hub:timm/resnet@v2", "hf-hub:timm/other", "nothing_that_timm_knows"):
        assert load.source_files(replace(spec, id=other)) == []
    assert load.source_files(replace(spec, checkpoint="w.safetensors")) == []  # its configuration is the hub's


def test_weights_hash_ignores_format(toy, tmp_path):
    folder = toy.checkpoint()
    torch.save({"state_dict": load_file(folder / "model.safetensors")}, tmp_path / "w.pth")
    spec = ModelSpec("n", "timm", id="toy_colour", checkpoint=str(tmp_path / "w.pth"))
    assert load_model(spec, LIBRARY).card.weights == loaded(folder).card.weights


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
WRAPPINGS = {
    f"{prefix}*": lambda w, prefix=prefix: {f"{prefix}{k}": v for k, v in w.items()} for prefix in PREFIXES
} | {
    "in a training state": lambda w: {"model": w, "optimizer": {"lr": 0.1}, "epoch": 3},
    "with its average": lambda w: {"state_dict": {k: 0 * v for k, v in w.items()}, "state_dict_ema": w},
    "float16": lambda w: {k: v.half() for k, v in w.items()},
    "bfloat16": lambda w: {k: v.bfloat16() for k, v in w.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_as_training_leaves_them(toy, tmp_path, wrapping):
    """Read as the weights they hold, averaged ones first; what no library unwraps is refused."""
    weights = load_file(toy.checkpoint() / "model.safetensors")
    spec = ModelSpec("m", "timm", id="toy_colour", checkpoint=str(tmp_path / "w.pth"))
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "w.pth")
    assert torch.equal(load_model(spec, LIBRARY, ("toy_networks",)).network.head.weight, weights["head.weight"])
    torch.save({"net": WRAPPINGS[wrapping](weights)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="do not load"):
        load_model(spec, LIBRARY, ("toy_networks",))


def test_networks_in_memory_are_used_again_and_checked(toy):
    folder = toy.checkpoint()
    model = load_model(spec_of(folder), LIBRARY, ("toy_networks",))
    again = load.model_for(model.card, LIBRARY)
    assert again.network is model.network
    load.LOADED.clear()
    save_file({"head.weight": torch.eye(3)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="weights changed while they were in use"):
        load.model_for(model.card, LIBRARY)
    for k in range(load.MAX_LOADED + 3):
        load_model(ModelSpec(f"m{k}", "timm", id=f"local-dir:{folder}"), LIBRARY)
    assert len(load.LOADED) == load.MAX_LOADED
