"""What the documentation prints is what works: profiles load, names exist, commands parse."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from beyond_accuracy.base.paths import project_root
from beyond_accuracy.base.profile import ROLES, load_profile
from beyond_accuracy.cli import main, parser
from beyond_accuracy.data.readers import READERS, load_dataset
from beyond_accuracy.dimensions.transfer.tasks import parse_tasks
from beyond_accuracy.models.card import locate

ROOT = project_root()  # before a test has a place of its own
PAGES = ("README.md", "docs/extending.md", "docs/datasets.md", "docs/scaling.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def profiles() -> list[tuple[str, str]]:
    return [(page, block) for page in PAGES for block in blocks(page, "yaml")]


def written(folder: Path, block: str) -> Path:
    """The block as the file it says it is, a profile; a part of one is put on top of the paper's."""
    start = "" if "extends:" in block else "extends: paper\nname: mine\n"
    (folder / "mine.yaml").write_text(start + block, encoding="utf-8")
    return folder / "mine.yaml"


@pytest.mark.parametrize(("page", "block"), profiles(), ids=[f"{page}-{i}" for i, (page, _) in enumerate(profiles())])
def test_printed_profiles_load(tmp_path, page, block):
    for other in blocks("docs/extending.md", "yaml"):
        if other.startswith("# my_tasks.yaml"):
            (tmp_path / "my_tasks.yaml").write_text(other, encoding="utf-8")
    if isinstance(yaml.safe_load(block), list):  # the task file itself
        return
    profile = load_profile(written(tmp_path, block))
    assert all(spec.reader in {*READERS, "imagenet_real"} for spec in profile.datasets.values())
    for spec in profile.models.values():
        locate(spec)  # raises where a library does not know the name
    if "my_tasks.yaml" in block:
        tasks = parse_tasks(profile.dimensions["transfer"]["tasks"])
        frame = load_dataset(profile.datasets["world_val"]).metadata
        assert [task.name for task in tasks] == ["material", "location"] and {t.column for t in tasks} <= {*frame}


def test_names_in_the_code_and_roles_are_as_printed():
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    named = re.findall(r"`(_?[A-Z][A-Z_]+)` of\s`(?:lib/beyond_accuracy/)?([\w/]+)\.py`", text)
    assert {"ROLES", "_KINDS"} <= {name for name, _ in named}
    for name, module in named:
        assert hasattr(importlib.import_module(f"beyond_accuracy.{module.replace('/', '.')}"), name), name
    rows = {page: set(re.findall(r"`(\w+)`", rest)) for page, rest in re.findall(r"^\| `(\w+)` \|(.*)", text, re.M)}
    for page, roles in ROLES.items():
        assert set(roles or ()) <= rows.get(page, {"no row"}), f"docs/extending.md, table of roles: {page}"


@pytest.mark.parametrize("page", PAGES)
def test_printed_commands_parse(page):
    inline = re.findall(r"`beyond-accuracy ([a-z-]+ [^`…]+)`", (ROOT / page).read_text(encoding="utf-8"))
    for words in [*commands(page), *(shlex.split(line) for line in inline)]:
        parser().parse_args(words)


def commands(page: str) -> list[list[str]]:
    """Words behind `beyond-accuracy` in the blocks of a page."""
    text = "\n".join(blocks(page, "bash") + blocks(page, "sh")).replace("\\\n", " ")
    found = []
    for line in [line for line in text.splitlines() if "beyond-accuracy " in line.partition("#")[0]]:
        words = shlex.split(line, comments=True)
        at = next(i for i, word in enumerate(words) if word.endswith("beyond-accuracy"))
        found.append([word for word in words[at + 1 :] if word not in ("&", "&&")])
    return found


@pytest.mark.slow
def test_commands_of_extending_do_what_they_say(tmp_path, monkeypatch, apart, shared_dir, efficientnet_lite0, capsys):
    """Every one is run; what it names as an example (files, a network of the hub) is replaced by what is here."""
    pytest.importorskip("imagenet_x", reason="labels of the validation set are an optional extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path / "data"))
    own = {"extends": "smoke", "name": "mine", "dimensions": dict.fromkeys(load_profile("smoke").dimensions)}
    own["dimensions"]["models"] = {"clean": "world_val"}
    Path("my.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    for folder in sorted((shared_dir / "data" / "imagenet_sample").iterdir())[:12]:
        (tmp_path / "val" / folder.name).mkdir(parents=True)
        for image in folder.iterdir():
            (tmp_path / "val" / folder.name / image.name).symlink_to(image)
    labels = load_dataset(load_profile("predictions").datasets["imagenet_1k"])
    wrong = np.random.default_rng(0).random(len(labels)) < 0.2
    rows = {"file_name": labels.ids, "predicted_class": (labels.targets + wrong) % 1000, "predicted_probability": 0.8}
    pd.DataFrame(rows).to_csv("resnet50.csv", index=False)
    here = {"timm:resnet50.a1_in1k": "timm:tf_efficientnet_lite0", "/data/imagenet/val": str(tmp_path / "val")}
    done = []
    for words in commands("docs/extending.md"):
        words = [here.get(word, word) for word in words]
        words += ["--checkpoint", str(efficientnet_lite0)] * (words[0] == "predict")
        assert main([*words, *["--device", "cpu"] * (words[0] != "import-predictions")]) == 0, capsys.readouterr()
        done.append(words[0])
    assert {"report", "predict", "import-predictions"} <= set(done)
    right = int(re.search(r"on val, transform none: (\d+)/12 correct", capsys.readouterr().out)[1])
    assert right >= 9  # of the sample 176 of 200
    accuracy = pd.read_csv(apart / "predictions" / "results.csv").query("metric == 'accuracy' and model == 'resnet50'")
    assert accuracy["value"].iloc[0] == pytest.approx(100 * (1 - wrong.mean()))
    assert (apart / "mine" / "00_overview.html").is_file()
