"""One network of each timm family, with random weights, on every rung of the resolution ladder: a value, or a line."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from beyond_accuracy.data.classes import imagenet_wnids
from beyond_accuracy.data.transforms import ladder
from beyond_accuracy.models import load

# A small one of every module of timm that has image classifiers (of mobilenetv5 there are backbones only).
FAMILIES = """
beit_base_patch16_224 eca_botnext26ts_256 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
test_convnext crossvit_tiny_240 csatv2 cs3darknet_focus_s davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn68
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvit_b0 efficientvit_m0
fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_100 hardcorenas_b hgnetv2_b0 hiera_tiny_224
hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v3 inception_v4 levit_128s
mambaout_femto maxvit_rmlp_pico_rw_256 gmixer_24_224 mobilevit_xxs mvitv2_tiny
naflexvit_base_patch16_gap nasnetalarge nest_tiny_jx nextvit_small nf_regnet_b1 pit_ti_224 pnasnet5large
poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d test_resnet
resnetv2_50 rexnet_100 selecsls42b seresnext26t_32x4d shvit_s1 skresnet18 starnet_s1 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
tresnet_m twins_svt_small vgg11 visformer_tiny test_vit vitamin_small_224 volo_d1_224 vovnet39a legacy_xception
xception41 xcit_nano_12_p16_224
""".split()
SAMPLE = ("test_vit", "test_convnext", "test_resnet", "levit_128s")  # the last takes one side only


def check(toy, monkeypatch, names):
    """Every network runs at its own side as timm runs it; elsewhere it has a value or a line, the others all theirs."""
    import timm

    original = timm.create_model

    def create_model(name, **options):
        torch.manual_seed(0)
        # Default weights of some have other classes (tiny_vit 21,841) or none (vitamin); random ones may have these.
        return original(name, **{**options, "pretrained": False, "num_classes": 1000})

    monkeypatch.setattr(timm, "create_model", create_model)
    wnid = imagenet_wnids()[0]
    folder = toy.data / "images" / wnid
    folder.mkdir(parents=True)
    Image.effect_noise((300, 280), 60).convert("RGB").save(folder / "a.png")
    models = {name: {"source": "timm", "name": name} for name in names}
    content = toy.content(models)
    content["datasets"]["images"]["classes"] = "imagenet_1k"
    outputs = toy.outputs(content)
    rungs = ladder("resolution")
    found = outputs.predictions("images", rungs)
    assert list(found["none"]) == list(names), outputs.left_out
    lines = [line for line in outputs.left_out if "resolution=" in line]
    values = sum(len(by_model) for text, by_model in found.items())
    assert values + len(lines) == len(names) * len(rungs)  # 224 is the identity
    features = outputs.features("images")
    for name in names:
        network = create_model(name).eval()
        model = load.load_model(outputs.profile.models[name], outputs.profile.settings)
        image = model.geometry.apply(Image.open(folder / "a.png").convert("RGB"))
        x = model.normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
        with torch.inference_mode():
            theirs = network(x)[0]
        ours = torch.tensor(found["none"][name].logits[0]).float()
        kept = (theirs - theirs.max()).clamp(min=torch.finfo(torch.float16).min)  # random weights may say 1e12
        torch.testing.assert_close(ours, kept, rtol=2e-3, atol=2e-3)
        assert all(layer.ndim == 2 and len(layer) == 1 for layer in features[name].layers.values())
    return lines


def test_a_sample_of_families(toy, monkeypatch):
    lines = check(toy, monkeypatch, SAMPLE)
    assert [line.split(":")[0] for line in lines] == ["levit_128s"] * 4
    assert all("does not run on inputs of side" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(toy, monkeypatch, name):
    check(toy, monkeypatch, [name])
    load.LOADED.clear()


CLIP = """
RN50 RN101 RN50x4 ViT-B-32 ViT-B-32-256 ViT-B-32-quickgelu ViT-B-16 ViT-B-16-plus-240 convnext_base convnext_base_w
coca_ViT-B-32 EVA02-B-16 MobileCLIP-S1 MobileCLIP-S2 MobileCLIP-B MobileCLIP2-S0 ViTamin-S ViTamin-S-LTT ViTamin-B
PE-Core-T-16-384
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIP)
def test_clip_models_on_every_rung(toy, monkeypatch, name):
    """A value or a line on each rung; at its own side what open_clip itself says."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    original = open_clip.create_model

    def create_model(name, pretrained=None, **how):
        torch.manual_seed(0)
        logging.disable(logging.WARNING)  # random weights, of which open_clip warns and which would be refused
        try:
            return original(name, **{**how, "require_pretrained": False})
        finally:
            logging.disable(logging.NOTSET)

    monkeypatch.setattr(open_clip, "create_model", create_model)
    toy.images(1)
    tag = open_clip.list_pretrained_tags_by_model(name)[-1]
    outputs = toy.outputs(toy.content({"clip": {"source": "open_clip", "name": name, "pretrained": tag}}))
    rungs = ladder("resolution")
    found = outputs.predictions("images", rungs)
    assert list(found["none"]) == ["clip"]
    lines = [line for line in outputs.left_out if "resolution=" in line]
    assert sum(map(len, found.values())) + len(lines) == len(rungs)
    model = load.load_model(outputs.profile.models["clip"], outputs.profile.settings)
    network = model.network
    first = found["none"]["clip"].ids[0]
    picture = Image.open(toy.data / "images" / f"{first}.png").convert("RGB")
    x = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)(picture)
    with torch.inference_mode():
        image = network.encode_image(x[None], normalize=True)
        templates = [lambda c: f"a photo of a {c}.", lambda c: f"the colour {c}"]
        names = ["red", "green", "blue"]
        head = open_clip.build_zero_shot_classifier(network, open_clip.get_tokenizer(name), names, templates)
        theirs = (network.logit_scale.exp() * image @ head)[0]
    ours = torch.tensor(found["none"]["clip"].logits[0]).float()
    torch.testing.assert_close(ours, theirs - theirs.max(), rtol=5e-3, atol=5e-3)
