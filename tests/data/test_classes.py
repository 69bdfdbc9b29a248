"""Class spaces: order, names and prompts are those of the libraries."""

import hashlib
import json

import numpy as np
import pytest

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.data import classes
from beyond_accuracy.data.classes import ClassSpace, class_space, imagenet_subset, imagenet_wnids


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_imagenet_is_open_clips():
    space = class_space("imagenet_1k")
    # the hashes of the contract sheet: timm's order, open_clip's names and templates
    assert digest(space.ids) == "385e0240499426c0"
    assert digest(space.names) == "571ae1c583b4be7d" and digest(space.templates) == "c078f4d4ced9e360"
    assert len(space) == 1000 and space.ids[0] == "n01440764" and space.index["n15075141"] == 999
    assert list(space.ids) == sorted(space.ids)
    assert space.names[657] == space.names[744] == "missile"  # known duplicates of the published list


def test_subsets():
    for name, expected in (("a", "f6aa4b23244554d9"), ("r", "e19a59d84e3746fa")):
        indices = imagenet_subset(name)
        assert len(indices) == 200 and (np.diff(indices) > 0).all()
        assert digest([imagenet_wnids()[i] for i in indices]) == expected
    assert len(np.intersect1d(imagenet_subset("a"), imagenet_subset("r"))) == 86
    with pytest.raises(InputError, match="known: a, r"):
        imagenet_subset("v2")


def test_another_class_order_is_refused(monkeypatch):
    imagenet_wnids.cache_clear()
    monkeypatch.setattr(classes, "timm_list", lambda file: "n02 n01")
    with pytest.raises(InputError, match="another class order"):
        imagenet_wnids()
    imagenet_wnids.cache_clear()


def test_prompts():
    space = ClassSpace("x", ("a", "b"), ("ant", "bee"), ("one {c}", "{c}s"))
    assert space.prompted("default") is space
    other = space.prompted("a photo of a {c}.\nthe {c}")
    assert other.templates == ("a photo of a {c}.", "the {c}") and other.names == space.names
    spoken = ClassSpace("x", space.ids, space.names, space.templates, ("an ant", "a bee"))
    assert spoken.spoken == ("an ant", "a bee") and space.spoken == space.names
    renamed = ClassSpace("other", ("c", "d"), space.names, space.templates)
    hashes = [s.prompt_hash for s in (space, other, spoken, ClassSpace("x", ("a", "b"), ("ant", "wasp"), ("one {c}",)))]
    assert len(set(hashes)) == 4 and renamed.prompt_hash == space.prompt_hash  # only what is asked counts


def test_a_space_of_ones_own(tmp_path, monkeypatch):
    content = {"ids": ["a", "b"], "names": ["Ä", "<b>"], "templates": ["{c}"]}
    path = tmp_path / "space.json"
    path.write_text(json.dumps(content))
    assert class_space(str(path)).names == ("Ä", "<b>")
    monkeypatch.setenv("BEYOND_ACCURACY_DATA", str(tmp_path))
    assert class_space("space.json").ids == ("a", "b")  # relative to the data folder


GOOD = {"ids": ["a"], "names": ["a"], "templates": ["{c}"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected JSON"),
        ('{"ids": ["a"], "names": ["a"]}', "'templates'"),
        ({"ids": 3}, "expected JSON"),
        ({"ids": ["a", "a"], "names": ["a", "b"]}, "unique"),
        ({"names": ["a", "b"]}, "as many as names"),
        ({"ids": [], "names": []}, "unique"),
        ({"templates": []}, "must be a template"),
        ({"templates": ["a photo"]}, r"must contain \{c\}"),
        ({"prompt_names": ["x", "y"]}, "as many"),
    ],
)
def test_malformed_spaces(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(GOOD | content))
    with pytest.raises(InputError, match=rf"bad\.json: .*{message}"):
        class_space(str(path))
    for name in ("imagenet_2k", ""):  # folders say of what class an image is, not which classes there are
        with pytest.raises(InputError, match=f"unknown class space '{name}'.*of their own: `reader: own`"):
            class_space(name)


def test_a_file_of_classes_that_is_absurd(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="expected JSON with the lists"):
        class_space(str(path))
    with path.open("wb") as file:
        file.truncate(2**33)  # eight gigabytes of nothing
    class_space.cache_clear()
    with pytest.raises(InputError, match="8,192 MB are no list of classes"):
        class_space(str(path))
