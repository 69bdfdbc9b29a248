"""Training: recipes, order, augmentation, tokens, and a run that learns and resumes exactly."""

import dataclasses
import json

import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from beyond_accuracy.base.errors import DataMissing, InputError
from mini_world import train, train_data
from mini_world.build import encode_webp
from mini_world.evaluate import load_model
from mini_world.recipe import RECIPES, DataRecipe, read_recipe
from mini_world.scene import Scene
from mini_world.train_data import Augmentation, SampleOrder, TokenTable, TrainingSet, augment, to_float

TEXTS = ["a photo of a red car on the left", "a dog", "an umbrella seen from above on the right"]


def tiny_set(count=64, side=24):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 80, (count, side, side, 3), np.uint8)
    images[labels == 1] += 150
    metadata = pd.DataFrame({"class_name": np.array(["car", "dog"])[labels]})
    return TrainingSet(np.array([f"i{i}" for i in range(count)]), images, labels, ("car", "dog"), metadata, "tiny")


def tiny_recipe(steps=20, **changes):
    changes |= {"data": DataRecipe(holdout=8), "batch_size": 16, "samples": steps * 16, "precision": "fp32"}
    return dataclasses.replace(read_recipe("default"), resolutions=((32, 1.0),), **changes)


def trained(cell, steps, recipe=None, data=None, seed=0):
    """A trainer after some steps, and its losses."""
    trainer = train.Trainer(cell, recipe or tiny_recipe(), data or tiny_set(), seed, torch.device("cpu"))
    return trainer, [trainer.train_step() for _ in range(steps)]


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_recipes_are_valid(name):
    recipe = read_recipe(name)
    assert recipe.steps * recipe.batch_size >= recipe.samples
    rates = [recipe.learning_rate_at(step) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-3) and 0 < rates[-1] < 0.01 * recipe.learning_rate
    assert recipe.resolution_at(recipe.steps - 1) == 48
    assert recipe.resolution_at(0) == recipe.resolutions[0][0]


def test_recipe_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="no such recipe"):
        read_recipe("nothing")
    path = tmp_path / "mine.yaml"
    path.write_text((RECIPES / "default.yaml").read_text() + "\nlearning_rat: 1\n")
    with pytest.raises(InputError, match="learning_rat"):
        read_recipe(path)


def test_sample_order_visits_everything_once_per_pass():
    order = SampleOrder(10, seed=3)
    stream = np.concatenate([order(start, 4) for start in range(0, 40, 4)])
    for epoch in range(4):
        assert sorted(stream[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert (SampleOrder(10, seed=3)(7, 6) == stream[7:13]).all()
    assert (stream[:10] != stream[10:20]).any()


def test_augmentation_stays_in_range_and_reports_mirroring():
    settings = Augmentation(area=(1.0, 1.0), aspect=1.0, brightness=0.0, color=0.0)
    ramp = np.broadcast_to(np.linspace(0, 255, 32)[None, None, :, None], (16, 32, 32, 3)).astype(np.uint8)
    views, mirrored = augment(to_float(ramp), 32, torch.Generator().manual_seed(0), settings)
    rises = views[:, 0, 16, -1] > views[:, 0, 16, 0]
    assert (rises == ~mirrored).all() and 0 < mirrored.sum() < 16
    unmirrored = torch.where(mirrored[:, None, None, None], views.flip(-1), views)
    torch.testing.assert_close(unmirrored * 0.25 + 0.5, to_float(ramp), rtol=0, atol=1e-5)
    images = to_float(tiny_set().images[:8])
    first, again = (augment(images, 16, torch.Generator().manual_seed(5), Augmentation())[0] for _ in range(2))
    assert torch.equal(first, again) and first.shape == (8, 3, 16, 16) and first.abs().max() <= 2.0 + 1e-5


def test_token_table_round_trip(tmp_path):
    table = TokenTable.of_texts(TEXTS)
    table.save(tmp_path / "token_table.json")
    config = {"model_cfg": {"text_cfg": {"context_length": table.context_length}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    loaded = TokenTable.load(tmp_path)
    assert loaded == table
    original = open_clip.SimpleTokenizer(context_length=table.context_length)(TEXTS)
    remapped = loaded(TEXTS)
    assert torch.equal(torch.tensor(table.ids)[remapped], original)
    # open_clip pools where the id is largest: the end of the text must stay there
    assert torch.equal(remapped.argmax(1), original.argmax(1))
    with pytest.raises(InputError, match="zebra"):
        loaded(["a zebra"])


def test_mirrored_captions_swap_sides():
    table = TokenTable.of_texts(TEXTS)
    tokens = table(["a dog on the left", "a dog on the left", "a dog"])
    swapped = table.swap(tokens, torch.tensor([True, False, True]), "left", "right")
    assert torch.equal(swapped, table(["a dog on the right", "a dog on the left", "a dog"]))


def test_subsets_are_balanced_and_narrow_is_narrow():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    spread = {"object_yaw": (0, 14), "camera_yaw": (0, 7), "camera_pitch": (16, 5), "camera_roll": (0, 4)}
    spread |= {"scale": (np.log(0.85), 0.11), "light_intensity": (0, 0.18)}
    metadata = pd.DataFrame({name: rng.normal(*about, 400) for name, about in spread.items()})
    metadata[["scale", "light_intensity"]] = np.exp(metadata[["scale", "light_intensity"]])
    narrow, diverse = (train_data.select_subset(metadata, labels, kind, 80, 1) for kind in ("narrow", "diverse"))
    for chosen in (narrow, diverse):
        assert (np.bincount(labels[chosen]) == 20).all() and len(set(chosen)) == 80
    assert metadata["object_yaw"].iloc[narrow].std() < 0.8 * metadata["object_yaw"].iloc[diverse].std()
    assert len(train_data.select_subset(metadata, labels, "all", None, 1)) == 400
    with pytest.raises(InputError, match="size"):
        train_data.select_subset(metadata, labels, "narrow", None, 1)


def test_training_set_is_read_decoded_and_fingerprinted(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    data = tiny_set(8)
    images = [encode_webp(image, None) for image in data.images]
    table = pa.table({"id": data.ids, "image": images, "label": data.labels, "class_name": data.metadata["class_name"]})
    for part in range(2):
        pq.write_table(table.slice(4 * part, 4), folder / f"part-{part:04d}.parquet")
    loaded = train_data.load_training_set(folder, 2, tmp_path / "decoded")
    assert (loaded.images == data.images).all() and (loaded.labels == data.labels).all()
    assert loaded.class_names == ("car", "dog")
    assert loaded.fingerprint == train_data.load_training_set(folder, 2, tmp_path / "decoded").fingerprint
    assert loaded.fingerprint != train_data.load_training_set(folder, 1, tmp_path / "decoded").fingerprint
    with pytest.raises(DataMissing, match="part-0002"):
        train_data.load_training_set(folder, 3, tmp_path / "decoded")


@pytest.mark.parametrize("cell", ["vit_sup", "convnext_sup"])
def test_a_few_steps_reduce_the_loss(cell):
    _, losses = trained(cell, 12)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_resuming_gives_the_same_weights(tmp_path):
    (straight, _), (first, _), (second, _) = (trained("convnext_sup", steps, seed=1) for steps in (6, 3, 0))
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    second.load_checkpoint(tmp_path / "checkpoint.pt")
    for _ in range(3):
        second.train_step()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    other, _ = trained("convnext_sup", 0, tiny_recipe(learning_rate=0.1), seed=1)
    with pytest.raises(InputError, match="another recipe"):
        other.load_checkpoint(tmp_path / "checkpoint.pt")


def test_run_writes_curve_provenance_and_model(tmp_path):
    (trainer, _), (again, _) = (trained("vit_sup", 0, tiny_recipe(steps=4)) for _ in range(2))
    trainer.run(tmp_path / "run", progress=lambda line: None)
    trainer.export(tmp_path / "model")
    curve = pd.read_csv(tmp_path / "model" / "training.csv")
    assert curve["step"].tolist() == [1, 2, 3, 4] and curve["loss"].notna().all()
    again.run(tmp_path / "run", progress=lambda line: pytest.fail("a finished run trained again"))
    assert again.step == 4 and again.log == trainer.log
    names = ["config.json", "model.safetensors", "training.csv", "training.json"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == names


def test_clip_learns_and_exports(tmp_path):
    data, scene = tiny_set(), vars(Scene("mug", "plain", "snow"))
    captioned = data.metadata.assign(**{name: scene[name] for name in scene.keys() - {"class_name", "props"}})
    trainer, losses = trained("convnext_clip", 12, data=dataclasses.replace(data, metadata=captioned))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert trainer.model.logit_scale.exp() <= 100.0 + 1e-4
    trainer.export(tmp_path)
    loaded = load_model(tmp_path, trainer.prompts)
    trainer.model.half().float()
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(images), trainer.logits(images), rtol=1e-3, atol=1e-3)
