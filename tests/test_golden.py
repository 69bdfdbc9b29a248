"""Nothing moves a number unnoticed, and no sentence says what the tables do not: whole reports (tools/golden.py)."""

import pytest

import golden
import sentences
from beyond_accuracy.base.profile import load_profile
from beyond_accuracy.cli import main


@pytest.mark.parametrize("profile", ["smoke", pytest.param("mini", marks=pytest.mark.slow)])
def test_a_report_says_what_it_said_and_what_its_tables_say(profile, kernels, apart, capsys):
    """Built in a folder of its own, from an empty store."""
    assert main(["report", "--profile", profile, "--device", "cpu"]) == 0, capsys.readouterr()
    places = apart / profile, apart.with_name("figures") / profile
    assert golden.moved(golden.read(golden.GOLDEN / profile), golden.collect(*places)) == []
    labels = {name: spec.label for name, spec in load_profile(profile).models.items()}
    assert sentences.check(*places, labels) == []


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
