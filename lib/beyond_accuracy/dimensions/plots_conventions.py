"""Figure of the conventions page: what each choice moves, as a forest of paired differences."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from beyond_accuracy.show.theme import INK, WIDTH, ModelStyle, errorbar, legend


def forest_figure(table: pd.DataFrame, styles: Mapping[str, ModelStyle]) -> Figure:
    """One panel per measure, one row per convention, one marker with its interval per model that it touches.

    Args:
        table: Rows `panel, label, model, value, ci_low, ci_high`; a label `choice: value` is broken at the colon.
        styles: Looks of the models.
    """
    panels, labels = list(dict.fromkeys(table["panel"])), list(dict.fromkeys(table["label"]))
    names = [name for name in styles if (table["model"] == name).any()]
    height = 0.34 + max(0.42, 0.15 * len(names)) * len(labels)
    fig, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 0.8 + (height + 0.5) * len(panels)), squeeze=False)
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        mine = table[table["panel"] == panel]
        ax.axvline(0, color=INK, linewidth=1)
        errorbar(ax, mine, x="label", styles=styles, order=labels, orient="h", dodge=0.8 / max(4, len(names)))
        ax.set_yticks(range(len(labels)), [label.replace(": ", ":\n", 1) for label in labels], fontsize=10)
        ax.set_xlabel(panel)
    legend(fig, {name: styles[name] for name in names})
    return fig
