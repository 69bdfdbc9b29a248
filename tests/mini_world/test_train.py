"""Training: recipes, order, augmentation, tokens, and a run that learns and resumes exactly."""

import dataclasses
import io
import json

import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from mini_world import train
from mini_world.recipe import RECIPES, DataRecipe, read_recipe
from mini_world.train_data import (
    Augmentation,
    SampleOrder,
    TokenTable,
    TrainingSet,
    augment,
    load_training_set,
    select_subset,
    to_float,
)

CPU = torch.device("cpu")
TEXTS = ["a photo of a red car on the left", "a dog", "an umbrella seen from above on the right"]


def tiny_set(count=64, side=24, classes=2):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = rng.integers(0, 80, (count, side, side, 3), np.uint8)
    images[labels == 1] += 150
    metadata = pd.DataFrame({"class_name": [("car", "dog")[label] for label in labels]})
    return TrainingSet(
        np.array([f"i{i}" for i in range(count)]), images, labels, ("car", "dog")[:classes], metadata, "tiny"
    )


def tiny_recipe(**changes):
    recipe = read_recipe("default")
    return dataclasses.replace(
        recipe,
        data=DataRecipe(holdout=8),
        batch_size=16,
        samples=20 * 16,
        resolutions=((32, 1.0),),
        precision="fp32",
        **changes,
    )


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


def test_augmentation_depends_only_on_the_generator():
    images = to_float(tiny_set().images[:8])
    first = augment(images, 16, torch.Generator().manual_seed(5), Augmentation())[0]
    torch.rand(3)
    assert torch.equal(first, augment(images, 16, torch.Generator().manual_seed(5), Augmentation())[0])
    assert first.shape == (8, 3, 16, 16) and first.abs().max() <= 2.0 + 1e-5


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
    metadata = pd.DataFrame(
        {
            "object_yaw": rng.normal(0, 14, 400),
            "camera_yaw": rng.normal(0, 7, 400),
            "camera_pitch": rng.normal(16, 5, 400),
            "camera_roll": rng.normal(0, 4, 400),
            "scale": np.exp(rng.normal(np.log(0.85), 0.11, 400)),
            "light_intensity": np.exp(rng.normal(0, 0.18, 400)),
        }
    )
    narrow, diverse = (select_subset(metadata, labels, kind, 80, 1) for kind in ("narrow", "diverse"))
    for chosen in (narrow, diverse):
        assert (np.bincount(labels[chosen]) == 20).all() and len(set(chosen)) == 80
    assert metadata["object_yaw"].iloc[narrow].std() < 0.8 * metadata["object_yaw"].iloc[diverse].std()
    assert len(select_subset(metadata, labels, "all", None, 1)) == 400
    with pytest.raises(InputError, match="size"):
        select_subset(metadata, labels, "narrow", None, 1)


def test_training_set_is_read_decoded_and_fingerprinted(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    data = tiny_set(8)
    for part in range(2):
        rows = [
            {"id": str(data.ids[i]), "image": _webp(data.images[i]), "label": int(data.labels[i]), "class_name": n}
            for i, n in zip(range(part * 4, part * 4 + 4), data.metadata["class_name"][part * 4 :], strict=False)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"part-{part:04d}.parquet")
    loaded = load_training_set(folder, 2, tmp_path / "decoded")
    assert (loaded.images == data.images).all() and (loaded.labels == data.labels).all()
    assert loaded.class_names == ("car", "dog")
    assert loaded.fingerprint == load_training_set(folder, 2, tmp_path / "decoded").fingerprint
    assert loaded.fingerprint != load_training_set(folder, 1, tmp_path / "decoded").fingerprint
    with pytest.raises(DataMissing, match="part-0002"):
        load_training_set(folder, 3, tmp_path / "decoded")


def _webp(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize("cell", ["vit_sup", "convnext_sup"])
def test_twenty_steps_reduce_the_loss(cell):
    trainer = train.Trainer(cell, tiny_recipe(), tiny_set(), 0, CPU)
    losses = [trainer.train_step() for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def test_resuming_gives_the_same_weights(tmp_path):
    straight = train.Trainer("convnext_sup", tiny_recipe(), tiny_set(), 1, CPU)
    for _ in range(6):
        straight.train_step()
    first = train.Trainer("convnext_sup", tiny_recipe(), tiny_set(), 1, CPU)
    for _ in range(3):
        first.train_step()
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    second = train.Trainer("convnext_sup", tiny_recipe(), tiny_set(), 1, CPU)
    second.load_checkpoint(tmp_path / "checkpoint.pt")
    for _ in range(3):
        second.train_step()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    other = train.Trainer("convnext_sup", tiny_recipe(learning_rate=0.1), tiny_set(), 1, CPU)
    with pytest.raises(InputError, match="another recipe"):
        other.load_checkpoint(tmp_path / "checkpoint.pt")


def test_run_writes_curve_provenance_and_model(tmp_path):
    recipe = dataclasses.replace(tiny_recipe(), samples=4 * 16)
    trainer = train.Trainer("vit_sup", recipe, tiny_set(), 0, CPU)
    trainer.run(tmp_path / "run", progress=lambda line: None)
    trainer.export(tmp_path / "model")
    curve = pd.read_csv(tmp_path / "model" / "training.csv")
    assert curve["step"].tolist() == [1, 2, 3, 4] and curve["loss"].notna().all()
    again = train.Trainer("vit_sup", recipe, tiny_set(), 0, CPU)
    again.run(tmp_path / "run", progress=lambda line: pytest.fail("a finished run trained again"))
    assert again.step == 4 and again.log == trainer.log
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "training.csv",
        "training.json",
    }


def test_clip_learns_and_exports(tmp_path):
    data = tiny_set()
    scene = {
        "material": "plain", "background": "snow", "dx": 0.0, "dy": 0.0, "scale": 0.85, "light_intensity": 1.0,
        "camera_pitch": 15.0, "camera_roll": 0.0,
    }  # fmt: skip
    data = dataclasses.replace(data, metadata=data.metadata.assign(**scene))
    trainer = train.Trainer("convnext_clip", tiny_recipe(), data, 0, CPU)
    losses = [trainer.train_step() for _ in range(20)]
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    assert trainer.model.logit_scale.exp() <= 100.0 + 1e-4
    trainer.export(tmp_path)
    from mini_world.evaluate import load_model

    prompts = trainer.prompts
    loaded = load_model(tmp_path, prompts)
    trainer.model.half().float()
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(images), trainer.logits(images), rtol=1e-3, atol=1e-3)
