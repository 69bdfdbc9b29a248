"""The checker of findings sees a wrong number, order, count and superlative, and passes what the tables say."""

import pandas as pd
import pytest

import sentences

LABELS = {"a": "Model A", "b": "Model B", "c": "Model C"}


@pytest.fixture
def tables(tmp_path):
    """Accuracy of three models on one set: A and B are not told apart, C is behind both."""
    report, figures = tmp_path / "report", tmp_path / "figures" / "page"
    for folder in (report / "results", report / "comparisons", figures):
        folder.mkdir(parents=True)
    rows = [("set", "accuracy", m, v, v - 1, v + 1) for m, v in zip("abc", (90.04, 89.5, 70.0), strict=True)]
    columns = ["dataset", "metric", "model", "value", "ci_low", "ci_high"]
    pd.DataFrame(rows, columns=columns).to_csv(report / "results" / "page.csv", index=False)
    pairs = [("a", "b", 0.54, "open"), ("b", "c", 19.5, "these checkpoints")]
    pairs.append(("a", "c", 20.04, "beyond training noise"))
    compared = pd.DataFrame(pairs, columns=["model_a", "model_b", "difference", "verdict"])
    compared = compared.assign(dataset="set", metric="accuracy", family="main", ci_low=-1.0, ci_high=25.0)
    compared.to_csv(report / "comparisons" / "page.csv", index=False)
    pd.DataFrame({"model": ["a", "b"], "errors": [421, 17]}).to_csv(figures / "errors.csv", index=False)
    return sentences.Tables(report, tmp_path / "figures", "page", LABELS)


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        (
            "Model A (90.0) and Model B (89.5) tie; 2 of 3 pairs of models are told apart (1 of them beyond training "
            "noise); open: Model A and Model B.",
            "",
        ),
        ("Model A (90.0) leads.", "verdicts do not say"),
        ("Model B (89.5) and Model A (90.0) tie.", ""),
        ("Model A (90.0), Model B (89.5) and Model C (70.0) tie.", "verdicts do not say"),
        ("Model A (90.1) and Model B (89.5) tie.", "verdicts do not say"),
        ("3 of 3 pairs of models are told apart (1 of them beyond training noise).", "comparisons do not say"),
        ("2 of 3 pairs of models are told apart (2 of them beyond training noise).", "comparisons do not say"),
        ("2 of 3 pairs of models are told apart.", "comparisons do not say"),
        ("Model A leads; the two are told apart.", "comparisons do not say"),
        ("Model C has 70.0 [69.0, 71.0] %.", ""),
        ("Model C has 70.0 [69.0, 71.1] %.", "no row holds"),
        ("Model A is 20.0 [−1.0, +25.0] points ahead.", ""),
        ("Model A makes 421 errors.", ""),
        ("Model A makes 422 errors.", "no table holds"),
        ("The highest is 90.0.", ""),
        ("The best model is Model B.", "nothing supports"),
        ("The lowest is 89.5.", "nothing supports"),
    ],
)
def test_a_sentence_is_held_against_the_tables(tables, sentence, problem):
    problems = sentences.told(sentence, tables)
    assert (problem in problems[0]) if problem else problems == [], problems


def test_one_pair_has_words_of_its_own(tables):
    tables.comparisons = tables.comparisons[tables.comparisons["model_b"] == "c"].iloc[1:]
    assert sentences.told("The two differ; the two are told apart (beyond training noise).", tables) == []
    for wrong in ("not told apart", "told apart", "told apart (not beyond training noise)"):
        assert "comparisons do not say" in sentences.told(f"The two are two; the two are {wrong}.", tables)[0]


def test_digits_signs_and_percent():
    fits = lambda value, text: bool(sentences.fits([value], text)[0])  # noqa: E731
    assert fits(0.9004, "90.0") and fits(-3.14, "−3.1") and fits(-3.14, "3.1") and fits(1234.0, "1,234")
    assert not fits(-3.14, "+3.1") and not fits(90.06, "90.0") and not fits(float("nan"), "0")
