"""The pass over a dataset: what it computes, what it does not compute twice, and what stops it."""

import multiprocessing
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from timm.data import create_transform

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import load_arrays
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.inference import jobs
from beyond_accuracy.inference import outputs as outputs_
from beyond_accuracy.inference import run as inference
from beyond_accuracy.models.network import Model


@pytest.fixture
def toy(toy):
    """Twelve images and a network."""
    toy.images()
    toy.checkpoint()
    return toy


def colour(outputs, text="none"):
    """Predictions of the one network."""
    return outputs.predictions("images", [text])[text]["colour"]


def two(toy, **second):
    """A profile of the toy network and another one, over the same images."""
    toy.checkpoint("other", **second)
    names = ("colour", "other")
    return {name: {"source": "timm", "name": f"local-dir:{toy.root / name}"} for name in names}


def equal(found, expected):
    """The same rows and logits, to the last bit."""
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    np.testing.assert_array_equal(found.logits, expected.logits)


def decoded(monkeypatch, most=None):
    """Positions of images as they are decoded from now on; the run is interrupted after `most`."""
    seen, original = [], getattr(ImageDataset.image, "original", ImageDataset.image)

    def image(self, position):
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.append(position)
        return original(self, position)

    image.original = original
    monkeypatch.setattr(ImageDataset, "image", image)
    return seen


def test_predictions_are_those_of_a_plain_loop(toy):
    """Over timm's own transform."""
    found = colour(toy.outputs())
    transform = create_transform((3, 16, 16), crop_pct=0.8, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3)
    files = [toy.data / "images" / f"{image_id}.png" for image_id in found.ids]
    assert sorted(files) == sorted((toy.data / "images").rglob("*.png")) and len(files) == 12
    logits = np.stack([8 * transform(Image.open(file).convert("RGB")).mean((1, 2)).numpy() for file in files])
    probabilities = softmax(logits, axis=1)
    assert found.pred.tolist() == logits.argmax(axis=1).tolist() == found.targets.tolist() and found.correct.all()
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=1), atol=2e-3)
    np.testing.assert_allclose(found.target_probability, probabilities[np.arange(12), found.targets], atol=2e-3)
    np.testing.assert_allclose(found.logits, logits - logits.max(axis=1, keepdims=True), atol=2e-3)
    assert found.meta["device"].startswith("cpu") and found.meta["key_parts"]["precision"] == "fp32"


def test_each_forward_pass_happens_once_whichever_page_asks(toy, toy_networks):
    colour(toy.outputs())
    assert sum(toy_networks.CALLS) == 12
    features = toy.outputs().features("images")["colour"]
    toy.outputs().predictions("images", ["none", "scale=1", "shift=0"])  # all three are the untransformed run
    assert sum(toy_networks.CALLS) == 12
    assert features.layers["pre_logits"].shape == (12, 3)
    toy.outputs().predictions("images", ["none", "hflip=1"])
    assert sum(toy_networks.CALLS) == 24


def test_transforms_of_one_pass_equal_those_of_passes_of_their_own(toy):
    texts = ["none", "noise=0.1", "scale=1.5", "resolution=448", "jpeg=30"]
    together = toy.outputs().predictions("images", texts)
    toy.store = toy.root / "other"
    for text in texts:
        alone = toy.outputs().predictions("images", [text])[text]["colour"]
        equal(alone, together[text]["colour"])
        assert alone.transform == text
    assert not np.array_equal(together["none"]["colour"].logits, together["noise=0.1"]["colour"].logits)


def test_an_image_is_decoded_once_for_all_models_and_transforms(toy, monkeypatch):
    content, seen = toy.content(two(toy, scale=2.0)), decoded(monkeypatch)
    found = toy.outputs(content).predictions("images", ["none", "hflip=1", "blur=2"])
    assert sorted(seen) == list(range(12)) and list(found["none"]) == ["colour", "other"]
    assert (found["none"]["colour"].confidence > found["none"]["other"].confidence).all()


def test_the_batch_is_halved_when_memory_runs_out(toy, toy_networks, monkeypatch):
    monkeypatch.setattr(toy_networks, "MAX_BATCH", 3)
    found = colour(toy.outputs(options={"batch_size": 12}, chunk=100))
    assert found.correct.all() and max(toy_networks.CALLS) == 3 and sum(toy_networks.CALLS) == 12


def test_memory_that_never_suffices_costs_that_model_until_another_time(toy, toy_networks, monkeypatch):
    models = two(toy, scale=1.0)
    original, asked = toy_networks.ToyColour.forward_features, []

    def answering():
        """Models that have predictions when the same command asks again."""
        return list(toy.outputs(toy.content(models)).predictions("images", ["none"])["none"])

    def full(self, x):
        if self.head.weight.max() > 2 and len(toy_networks.CALLS) > 2:  # the first part still fits
            asked.append(len(x))
            raise RuntimeError("MPS backend out of memory (allocated 3 GB)")
        return original(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(toy_networks.ToyColour, "forward_features", full)
        outputs = toy.outputs(toy.content(models), chunk=4)
        assert list(outputs.predictions("images", ["none"])["none"]) == ["other"]
        assert list(outputs.left_out) == ["colour: out of memory with a batch of one; try --device cpu (images)"]
        count = len(asked)
        assert answering() == ["other"] and len(asked) == count  # not tried again
        with pytest.raises(InputError, match="colour: out of memory with a batch of one"):
            colour(toy.outputs())
    monkeypatch.setattr(outputs_, "ASKED", set())  # another command, of whose notebooks none tries
    monkeypatch.setenv("BEYOND_ACCURACY_REPORT", "x")
    assert answering() == ["other"]
    monkeypatch.delenv("BEYOND_ACCURACY_REPORT")
    toy_networks.CALLS.clear()
    # of the other network nothing is computed again; of this one what was not written before its memory ran out
    assert colour(toy.outputs(toy.content(models))).correct.all() and sum(toy_networks.CALLS) <= 12


def test_logits_that_are_not_finite_name_model_and_image(toy, toy_networks, monkeypatch):
    original = toy_networks.ToyColour.forward_head

    def broken(self, x, pre_logits=False):
        out = original(self, x, pre_logits)
        out[2:3] = out[2:3] if pre_logits else torch.inf
        return out

    monkeypatch.setattr(toy_networks.ToyColour, "forward_head", broken)
    with pytest.raises(InputError, match=r"colour: logits of image '.*002' .* are not finite"):
        colour(toy.outputs())
    assert not list(toy.store.rglob("*.parquet"))


def test_features_keep_the_range_and_the_digits_of_float32(toy, toy_networks, monkeypatch):
    original = toy_networks.ToyColour.forward_head

    def huge(self, x, pre_logits=False):
        return original(self, x, pre_logits) * (1e6 if pre_logits else 1)

    plain = toy.outputs().features("images")["colour"].layers["pre_logits"].copy()
    shutil.rmtree(toy.store)
    monkeypatch.setattr(toy_networks.ToyColour, "forward_head", huge)
    values = toy.outputs().features("images")["colour"].layers["pre_logits"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, plain * np.float32(1e6))


@pytest.mark.parametrize("chunk", [4, 5])
def test_an_interrupted_run_continues_without_computing_anything_twice(toy, toy_networks, monkeypatch, chunk):
    """Also with parts of another size."""
    whole = colour(toy.outputs())
    toy.store = toy.root / "interrupted"
    seen = decoded(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        colour(toy.outputs())
    later = decoded(monkeypatch)
    equal(colour(toy.outputs(chunk=chunk)), whole)
    assert seen == list(range(7)) and later == list(range(4, 12))  # the part of 4 that was under way is done again


def test_several_devices_share_the_parts(toy, monkeypatch, capsys):
    """Here two processors: the same rows, each part by one of them; bad images are counted over all."""
    (toy.data / "images" / "blue" / "blue003.png").write_bytes(b"")
    whole = colour(toy.outputs(options={"skip_bad": True}, chunk=2), "hflip=1")
    toy.store = toy.root / "shared"
    monkeypatch.setattr(inference, "devices_of", lambda name: ["cpu", "cpu"] if name == "cpu" else [name])
    capsys.readouterr()
    equal(colour(toy.outputs(options={"skip_bad": True}, chunk=2), "hflip=1"), whole)
    assert "left out 1 image that" in capsys.readouterr().err


def test_devices_that_are_named_unknown_or_not_here(monkeypatch):
    assert inference.devices_of("cuda:0,2") == ["cuda:0", "cuda:2"] and inference.devices_of("cuda:1") == ["cuda:1"]
    for count, expected in ((0, ["auto"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert inference.devices_of("all") == expected
    for name in ("cuda:0,", "cuda:a,1", "cpu,cpu", "gpu", "cuda:x", "tpu", ""):
        with pytest.raises(InputError, match="unknown device"):
            inference.pick_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' is not available here"):
            inference.pick_device("cuda")
    assert inference.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("batch", [1, 4])
def test_the_last_image_of_a_part_may_be_bad(toy, batch):
    (toy.data / "images" / "blue" / "blue003.png").write_bytes(b"")
    found = colour(toy.outputs(options={"skip_bad": True, "batch_size": batch}))
    assert len(found) == 11 and "blue/blue003" not in found.ids and found.correct.all()


def test_bad_images_stop_the_run_or_are_left_out_and_counted(toy, capsys):
    folder = toy.data / "images"
    bad = folder / "green" / "green001.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match=r"image 'green/green001' in .* cannot be decoded .*--skip-bad"):
        colour(toy.outputs())
    found = colour(toy.outputs(options={"skip_bad": True}))
    assert len(found) == 11 and "green/green001" not in found.ids and found.correct.all()
    assert len(found.logits) == 11 and found.meta["skipped"] == ["green/green001"]
    assert "left out 1 image that" in capsys.readouterr().err
    # Another run is not given the shorter table silently.
    with pytest.raises(InputError, match="'green/green001' .* left out by a run with --skip-bad"):
        colour(toy.outputs())
    with pytest.raises(InputError, match="left out by a run"):
        toy.outputs().features("images")
    assert len(toy.outputs(options={"skip_bad": True}).features("images")["colour"].ids) == 11


def test_parts_without_one_good_image(toy):
    folder = toy.data / "images"
    for path in sorted(folder.rglob("*.png"))[:4]:  # blue comes first: the first part of four
        path.write_bytes(b"GIF89a, but not really")
    found = colour(toy.outputs(options={"skip_bad": True}))
    assert len(found) == 8 and set(found.targets) == {0, 1}
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    toy.store = toy.root / "none"
    with pytest.raises(InputError, match="not one image could be decoded"):
        colour(toy.outputs(options={"skip_bad": True}))


def test_a_file_that_cannot_be_read_is_not_a_bad_image(toy):
    folder = toy.data / "images"
    outputs = toy.outputs(options={"skip_bad": True})
    outputs.fill("images", ["hflip=1"])  # the listing is remembered
    (folder / "red" / "red000.png").unlink()
    with pytest.raises(InputError, match=r"'red/red000' .* cannot be read \(No such file"):
        outputs.predictions("images", ["none"])


def test_room_for_joining_outputs_may_lack_as_well(toy, monkeypatch):
    expected = colour(toy.outputs())
    tried, cat = set(), torch.cat

    def poor(parts, *rest, **named):
        if isinstance(parts, list) and id(parts[0]) not in tried:  # what main memory is asked for is the same tensor
            tried.add(id(parts[0]))
            raise torch.OutOfMemoryError("out of memory")
        return cat(parts, *rest, **named)

    monkeypatch.setattr(torch, "cat", poor)
    toy.store = toy.root / "other"
    equal(colour(toy.outputs()), expected)
    assert tried


def test_what_is_kept(toy):
    content = toy.content()
    kept = colour(toy.outputs(content))
    content["datasets"]["images"]["keep"] = "none"
    bare = colour(toy.outputs(content))
    assert bare.logits is None and bare.probabilities is None
    pd.testing.assert_frame_equal(bare.frame, kept.frame)
    with pytest.raises(InputError, match=r"images.keep is none"):
        toy.outputs(content).features("images")
    content["datasets"]["images"]["keep"] = "logits"
    assert colour(toy.outputs(content)).logits is not None
    outputs = toy.outputs(content)
    outputs.fill("images", ["none"])
    assert not list(toy.store.glob(f"predictions/{next(iter(outputs.used))}/features-*"))


def test_labels_alone_cannot_be_run(toy):
    outputs = toy.outputs()
    dataset = SimpleNamespace(load=None, name="labels")
    job = SimpleNamespace(entry=SimpleNamespace(key="k", settled=False))
    with pytest.raises(DataMissing, match="only labels"):
        inference.run([job], dataset, outputs.store, outputs.profile.settings, inference.Options())


def test_bf16_runs_the_network_but_not_the_classifier(toy):
    """The logits of a bf16 run are not rounded to bf16's eight bits."""
    exact = colour(toy.outputs())
    half = colour(toy.outputs(precision="bf16"))
    assert half.meta["key"] != exact.meta["key"]
    np.testing.assert_array_equal(half.logits, exact.logits)  # the toy has no layer that autocast would touch before


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert inference.pick_device("auto").type == expected


def test_fp32_on_cuda_is_not_tensorfloat32():
    before = torch.backends.cudnn.allow_tf32
    with inference.cudnn_for(torch.device("cuda"), "fp32"):
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.benchmark
    with inference.cudnn_for(torch.device("cuda"), "bf16"):
        assert torch.backends.cudnn.allow_tf32 == before
    assert torch.backends.cudnn.allow_tf32 == before


def test_out_of_memory_in_its_several_spellings():
    assert inference.is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert inference.is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert inference.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not inference.is_out_of_memory(RuntimeError("shape mismatch"))


def test_without_room_in_shared_memory_images_go_through_pipes(toy, monkeypatch, capsys):
    """As where a container has 64 MB (tests/test_faults.py: a real one); with room for all of it nothing is said."""
    alone = toy.outputs().predictions("images", ["noise=0.1"])["noise=0.1"]["colour"]
    for name, word in (("room", ""), ("full", "/dev/shm is full: images go through pipes"), ("none", "in one process")):
        toy.store = toy.root / name
        with monkeypatch.context() as patch:
            if name == "full":
                patch.setattr(torch.Tensor, "share_memory_", lambda _: (_ for _ in ()).throw(RuntimeError("No space")))
            if name == "none":
                patch.setattr(multiprocessing.get_context(), "Lock", lambda: (_ for _ in ()).throw(OSError(30, "rofs")))
            helped = toy.outputs(workers=2).predictions("images", ["noise=0.1"])["noise=0.1"]["colour"]
        pd.testing.assert_frame_equal(alone.frame, helped.frame)
        said = capsys.readouterr().err
        assert said.count("\n") == bool(word) and word in said


def test_parts_are_cut_by_work(toy, toy_networks, monkeypatch):
    """Under many transforms a part of `chunk` images may take longer than anybody wants to lose."""
    whole = colour(toy.outputs(chunk=12))
    toy.store = toy.root / "slow"
    monkeypatch.setattr(inference, "PART_SECONDS", 0.0)
    decoded(monkeypatch, 11)
    with pytest.raises(KeyboardInterrupt):
        toy.outputs(chunk=12, options={"batch_size": 4}).predictions("images", ["none"])
    parts = sorted(path.name for path in toy.store.glob("predictions/*/part-*"))
    assert parts == [f"part-{k:08d}-{k + 4:08d}.parquet" for k in range(0, 8, 4)]
    later = decoded(monkeypatch)
    equal(colour(toy.outputs(chunk=12)), whole)
    assert later == [8, 9, 10, 11]


def test_lines_of_progress_in_a_log(monkeypatch, capsys):
    monkeypatch.delenv("BEYOND_ACCURACY_QUIET", raising=False)
    monkeypatch.setattr(jobs, "LINE_SECONDS", 0.0)
    with jobs.progress("images: 2 models", 10) as tell:
        tell(4)
        tell(6)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("images: 2 models: 4 of 10 images, 0 s, about 0 s to go")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "was killed, most likely for lack of memory"),
        ("Too many open files. Communication with the workers is no longer possible.", "raise the limit"),
    ],
)
def test_decoding_processes_that_end_are_explained(theirs, ours):
    def loader():
        raise RuntimeError(theirs)
        yield

    with pytest.raises(InputError, match=f"{ours}.*workers: 0"):
        list(inference.guarded(loader()))


def test_the_text_head_is_encoded_once(toy, monkeypatch):
    toy.clip()
    models = {"clip": {"source": "open_clip", "name": f"local-dir:{toy.root / 'clip'}"}}
    made = []
    original = Model.head
    monkeypatch.setattr(Model, "head", lambda self, *a, **k: made.append(self.card.name) or original(self, *a, **k))
    for text in ("none", "hflip=1"):
        assert len(toy.outputs(toy.content(models)).predictions("images", [text])[text]["clip"]) == 12
    assert made == ["clip"]
    (file,) = (toy.store / "heads").iterdir()
    right, seal = load_arrays(file)["head"], np.load(file)["seal"]
    for k, head in enumerate((None, right[:, ::-1], right[:, :2])):
        file.write_bytes(b"damaged") if head is None else np.savez(file, head=head, seal=seal)
        toy.outputs(toy.content(models)).predictions("images", [f"blur={k + 2}"])
        assert made == ["clip"] * (k + 2)
        np.testing.assert_array_equal(load_arrays(file)["head"], right)


# One model's limits ---------------------------------------------------------------------------------------------------


def test_a_rung_that_a_network_cannot_take_costs_that_network_that_rung(toy, toy_networks):
    models = two(toy, architecture="toy_fixed")
    outputs = toy.outputs(toy.content(models))
    rungs = ["none", "resolution=112", "resolution=336"]  # sides 16, 8 and 24
    found = outputs.predictions("images", rungs)
    assert {text: list(by_model) for text, by_model in found.items()} == {
        "none": ["colour", "other"],
        "resolution=112": ["colour"],
        "resolution=336": ["colour", "other"],
    }
    assert all(p.correct.all() for by_model in found.values() for p in by_model.values())
    (line,) = outputs.left_out
    assert line.startswith("other: does not run on inputs of side 8 (AssertionError: Input height (8) doesn't match")
    assert line.endswith("(images, resolution=112)")
    toy_networks.CALLS.clear()
    again = toy.outputs(toy.content(models))
    assert list(again.predictions("images", rungs)["resolution=112"]) == ["colour"]
    assert list(again.left_out) == [line] and not toy_networks.CALLS


def test_a_network_that_runs_nowhere_is_an_error_only_alone(toy):
    models = two(toy, architecture="toy_fixed")
    content = toy.content(models)
    file = toy.root / "other" / "config.json"
    file.write_text(file.read_text().replace("[3, 16, 16]", "[3, 20, 20]"))
    outputs = toy.outputs(content)
    assert list(outputs.predictions("images", ["none"])["none"]) == ["colour"]
    assert "does not run on inputs of side 20" in next(iter(outputs.left_out))
    with pytest.raises(InputError, match="other: does not run on inputs of side 20"):
        toy.outputs(toy.content({"other": models["other"]})).predictions("images", ["none"])


@pytest.mark.parametrize("count", [0, 1000])
def test_a_backbone_without_the_set_s_classes_takes_part_where_features_suffice(toy, count):
    outputs = toy.outputs(toy.content(two(toy, n_classes=count)))
    assert list(outputs.predictions("images", ["none"])["none"]) == ["colour"]
    (line,) = outputs.left_out
    said = f"other: the checkpoint has {count} classes, the dataset's class space {toy.classes} has 3; choose a "
    assert line.startswith(f"{said}checkpoint trained on {toy.classes}")
    assert line.endswith(", or fit a classifier to its features (`head: probe`)")
    features = outputs.features("images")
    assert list(features) == ["colour", "other"]
    np.testing.assert_array_equal(features["other"].layers["pre_logits"], features["colour"].layers["pre_logits"])
