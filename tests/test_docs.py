"""What the documentation prints is what works: profiles load, names exist, commands parse."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from beyond_accuracy.base.paths import project_root
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.cli import parser
from beyond_accuracy.data.readers import READERS, load_dataset
from beyond_accuracy.dimensions.transfer.tasks import parse_tasks
from beyond_accuracy.models.card import locate

PAGES = ("README.md", "docs/extending.md", "docs/datasets.md", "docs/scaling.md")


def blocks(page: str, language: str) -> list[str]:
    text = (project_root() / page).read_text(encoding="utf-8")
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
        assert [task.name for task in tasks] == ["material", "location"] and {c for t in tasks for c in t.column} <= {
            *frame
        }


@pytest.mark.parametrize("page", PAGES)
def test_printed_commands_parse(page):
    text = "\n".join(blocks(page, "bash") + blocks(page, "sh") + re.findall(r"`(beyond-accuracy [^`…]+)`", page))
    commands = [line for line in text.replace("\\\n", " ").splitlines() if "beyond-accuracy " in line.partition("#")[0]]
    for line in commands:
        words = shlex.split(line, comments=True)
        at = next(i for i, word in enumerate(words) if word.endswith("beyond-accuracy"))
        words = [word for word in words[at + 1 :] if word not in ("&", "&&")]
        parser().parse_args(words)
