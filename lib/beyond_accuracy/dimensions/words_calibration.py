"""Words of the calibration page: alt texts of its figures and its findings, every number computed."""

from collections.abc import Mapping

import pandas as pd

from beyond_accuracy.show.tables import format_interval

Labels = Mapping[str, str]


def reliability_alt(numbers: pd.DataFrame, title: str, labels: Labels) -> str:
    """Alt text of a reliability figure from `metrics.calibration_table.summary`."""
    models = (
        f"{labels[r.model]} debiased ECE {r.ece_debiased:.3f} (plain {r.ece:.3f}), mean confidence {r.confidence:.2f}, "
        f"accuracy {r.accuracy:.2f}"
        for r in numbers.itertuples()
    )
    return (
        f"Histograms of confidence and reliability diagrams of {len(numbers)} models on {title}: {'; '.join(models)}."
    )


def bins_alt(lines: pd.DataFrame, title: str, labels: Labels) -> str:
    """Alt text of the figure of the debiased ECE against bins."""
    ends = lines.groupby("model", sort=False)["value"].agg(["min", "max"])
    models = (f"{labels[row.Index]} {row.min:.3f} to {row.max:.3f}" for row in ends.itertuples())
    return f"Debiased ECE on {title} against the number of bins, of equal width and of equal mass: {'; '.join(models)}."


def temperature_alt(pairs: pd.DataFrame, labels: Labels) -> str:
    """Alt text of the figure of the debiased ECE before and after temperature scaling."""
    models = (f"{r.dataset}, {labels[r.model]}: {r.before:.3f} to {r.after:.3f}" for r in pairs.itertuples())
    return f"Debiased ECE before and after temperature scaling. {'; '.join(models)}."


def risk_coverage_alt(curves: pd.DataFrame, labels: Labels) -> str:
    """Alt text of the risk-coverage figure: the error rate at half and at full coverage."""
    words = []
    for (dataset, model), curve in curves.groupby(["dataset", "model"], sort=False):
        half = curve.iloc[(curve["coverage"] - 0.5).abs().argmin()]
        words.append(
            f"{dataset}, {labels[model]}: {half['risk']:.1%} at half, {curve['risk'].iloc[-1]:.1%} at all images"
        )
    return f"Error rate among the most confident images against the share answered. {'; '.join(words)}."


def gap_sentence(table: pd.DataFrame, title: str, labels: Labels) -> str:
    """Who is over- or underconfident, from the rows of `metrics.calibration_table.ece_table`."""
    rows = table[table["metric"] == "confidence_gap"].set_index("model")
    words = []
    for model, label in labels.items():
        value, low, high = 100 * rows.loc[model, ["value", "ci_low", "ci_high"]].astype(float)
        if low > 0:
            words.append(f"{label} is overconfident by {format_interval(value, low, high, '.1f')} points")
        elif high < 0:
            words.append(f"{label} is underconfident by {format_interval(-value, -high, -low, '.1f')} points")
        else:
            words.append(f"{label} is neither ({format_interval(value, low, high, '+.1f')})")
    return f"On {title}, {'; '.join(words)} (mean confidence minus accuracy)."


def order_sentence(row: pd.Series, title: str, labels: Labels) -> str:
    """Whether one ordering holds whatever the bins: a row of `metrics.calibration_resampling.ordering`."""
    start = f"On {title}, {labels[row['better']]} has a lower debiased ECE than {labels[row['worse']]}"
    if row["clear"] == row["configs"]:
        return f"{start} beyond noise under each of {row['configs']} bin configurations."
    share, lowest = (f"{100 * row[name]:.1f} %" for name in ("share", "lowest"))
    at = f"{row['lowest_n_bins']} bins of equal {row['lowest_binning']}"
    return (
        f"{start} in {share} of draws over {row['configs']} bin configurations, in {lowest} at {at}; it is beyond "
        f"noise under {row['clear'] or 'none'} of them."
    )


def temperature_sentence(pairs: pd.DataFrame, title: str, labels: Labels, source: str = "") -> str:
    """What one temperature does to the ECE of a dataset; `source` is the title of another set it was fitted on."""
    how = f"the temperature of {source}" if source else "a cross-fitted temperature"
    changes = (f"{labels[r.model]} from {r.before:.3f} to {r.after:.3f}" for r in pairs.itertuples())
    return f"On {title}, {how} changes the debiased ECE of {', '.join(changes)}."
