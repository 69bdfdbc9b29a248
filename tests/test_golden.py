"""Nothing moves a number unnoticed, and no sentence says what the tables do not: whole reports (tools/golden.py)."""

from pathlib import Path

import pytest

import golden
import sentences
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.cli import main
from beyond_accuracy.show.results import read_comparisons

pytestmark = pytest.mark.usefixtures("apart", "kernels")


def collected(root: Path, profile: str) -> dict:
    """Tables of a report built in a folder of its own, from an empty store."""
    return golden.collect(root / "report" / profile, root / "figures" / profile)


def unsupported(profile: str, root: Path, models: str = "") -> list[str]:
    """What the findings of a built report say that its tables do not."""
    labels = {name: spec.label for name, spec in load_profile(profile).select(models).models.items()}
    return sentences.check(root / "report" / profile, root / "figures" / profile, labels)


def contradictions(root: Path, profile: str) -> list:
    """Comparisons that pages ask twice, over the same images, with another answer."""
    key = [*golden.KEYS["comparisons"][1:], "difference", "n"]
    asked = read_comparisons(root / "report" / profile).groupby(key, dropna=False)
    answers = asked[["p_holm", "verdict", "family"]].nunique().max(axis=1)
    assert len(answers) > 100, "most are asked by one page"
    return answers[answers > 1].index.tolist()


@pytest.mark.parametrize("profile", ["smoke", pytest.param("mini", marks=pytest.mark.slow)])
def test_a_report_says_what_it_said_and_what_its_tables_say(profile, apart, capsys):
    quick = ["--parameter", "TIMING_SECONDS=0.2"]  # rates are each machine's own
    assert main(["report", "--profile", profile, "--device", "cpu", *quick]) == 0, capsys.readouterr()
    assert golden.moved(golden.read(golden.GOLDEN / profile), collected(apart.parent, profile)) == []
    assert unsupported(profile, apart.parent) == []
    assert contradictions(apart.parent, profile) == []


@pytest.mark.slow
def test_a_report_on_imported_predictions_says_what_its_tables_say(shared_dir, apart, capsys):
    """The two models whose predictions ImageNet-X publishes, all 50,000 images of each."""
    pytest.importorskip("imagenet_x", reason="the validation labels come with the optional package imagenet-x")
    for model in ("ResNet50", "ViT"):
        path = shared_dir / "data" / "predictions" / f"{model}.csv"
        assert main(["import-predictions", str(path), "--model", model, "--dataset", "imagenet_1k"]) == 0
    command = ["report", "--profile", "predictions", "--models", "ResNet50,ViT"]
    assert main(command) == 0, capsys.readouterr()
    said = collected(apart.parent, "predictions")["findings"]
    assert set(said["dimension"]) == {"models", "mistakes", "calibration", "robustness"}
    assert unsupported("predictions", apart.parent, "ResNet50,ViT") == []


def test_a_moved_number_a_lost_row_and_another_sentence_are_seen():
    frozen = golden.read(golden.GOLDEN / "smoke")
    assert golden.moved(frozen, frozen) == []
    results, sentences = frozen["results"].copy(), frozen["findings"].copy()
    column = results.columns.get_loc("value")
    results.iloc[3, column] = results.iloc[3, column] + 0.01
    sentences.iloc[0, 1] = "Something else."
    changed = golden.moved(frozen, {**frozen, "results": results.iloc[:-1], "findings": sentences})
    assert sorted(line.split(": ")[0] for line in changed) == ["findings", "findings", "results", "results"]
    assert sum(" value " in line for line in changed) == 1 and sum("results: gone" in line for line in changed) == 1
