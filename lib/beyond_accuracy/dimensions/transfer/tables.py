"""Tables of the transfer page, from probe runs and scores."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from beyond_accuracy.dimensions.transfer.run import Runs, averages, metric_name, results_rows, score, sets_of_tasks
from beyond_accuracy.dimensions.transfer.tasks import TaskData


def overview(tasks: Iterable[TaskData]) -> pd.DataFrame:
    """One row per task: ``task, group, dataset, classes, train, test, chance, majority`` (the last two in percent)."""
    rows = [
        (
            data.task.label,
            data.task.group,
            data.task.dataset,
            len(data.names),
            int(np.sum(data.fold != "test")),
            int(np.sum(data.fold == "test")),
            data.chance,
            data.majority,
        )
        for data in tasks
    ]
    return pd.DataFrame(rows, columns=["task", "group", "dataset", "classes", "train", "test", "chance", "majority"])


def wide_table(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Rows ``set, model, value, ci_low, ci_high`` as one row per set and a column with its interval per model."""
    shown = pd.DataFrame({"task": list(dict.fromkeys(table["set"]))})
    for model, label in labels.items():
        mine = table[table.model == model].set_index("set").reindex(shown.task)
        for column, suffix in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
            shown[label + suffix] = mine[column].to_numpy()
    return shown


def few_shot_table(curves: Mapping[int, list[Runs]]) -> pd.DataFrame:
    """Few-shot accuracies averaged over the tasks that have every point of the curve.

    Args:
        curves: Number of shots -> runs of the tasks that allow it.

    Returns:
        Rows ``panel, tasks, shots, model, value, ci_low, ci_high``: all tasks and each group of at least two; ``tasks``
        lists those averaged. Numbers of shots that no task allows are left out.
    """
    curves = {shots: runs for shots, runs in curves.items() if runs}
    complete = set.intersection(*({run.task.name for run in runs} for runs in curves.values())) if curves else set()
    frames = []
    for shots, runs in curves.items():
        kept = [run for run in runs if run.task.name in complete]
        means = averages(kept)
        for name, members in sets_of_tasks(kept).items():
            if name != "average_without_sun397":
                tasks = ", ".join(run.task.name for run in members)
                title = "all" if name == "average" else name.removeprefix("average_")
                panel = f"{title} ({len(members)} task{'s' if len(members) > 1 else ''})"
                frames.append(means[means.task == name].assign(panel=panel, tasks=tasks, shots=shots))
    columns = ["panel", "tasks", "shots", "model", "value", "ci_low", "ci_high"]
    if not frames:
        return pd.DataFrame(columns=columns)
    order = {panel: k for k, panel in enumerate(dict.fromkeys(frame.panel.iloc[0] for frame in frames))}
    table = pd.concat(frames, ignore_index=True)[columns]
    return table.sort_values(["panel", "shots"], key=lambda c: c.map(order) if c.name == "panel" else c, kind="stable")


def few_shot_rows(curves: Mapping[int, list[Runs]]) -> pd.DataFrame:
    """Few-shot accuracies of every task as rows of the results schema."""
    frames = [results_rows(score(runs), metric_name(f"shots={shots}")) for shots, runs in curves.items() if runs]
    return pd.concat(frames, ignore_index=True)


def panel_chance(few: pd.DataFrame, tasks: Iterable[TaskData]) -> dict[str, float]:
    """Mean chance accuracy (percent) of the tasks behind each panel of `few_shot_table`."""
    chance = {data.task.name: data.chance for data in tasks}
    members = few.groupby("panel", sort=False).tasks.first()
    return {panel: float(np.mean([chance[name] for name in names.split(", ")])) for panel, names in members.items()}


def protocols(runs: Iterable[Runs]) -> str:
    """Which tasks were run under which protocol, in words.

    >>> from beyond_accuracy.tasks import Task
    >>> tasks = {"digits": "vtab_1k", "camera_roll": "vtab_full"}
    >>> protocols(Runs(Task(t, "natural"), s, "main", {}, {}, None, None, 0) for t, s in tasks.items())
    'vtab_1k: digits; vtab_full: camera roll'
    """
    tasks = {}
    for run in runs:
        tasks.setdefault(run.setting, []).append(run.task.label)
    return "; ".join(f"{setting}: {', '.join(labels)}" for setting, labels in tasks.items())


def fit_summary(notes: pd.DataFrame, table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """How the fits went, per task: ``task, protocol, log10_c, at_edge, not_converged, seed_sd, fits``."""
    rows = []
    spread = table.groupby("task").seed_sd.mean()
    for task, part in notes.groupby("task", sort=False):
        rows.append(
            (
                titles.get(task, task),
                part.setting.iloc[0],
                float(np.median(np.log10(part.c))),
                int(part.at_edge.sum()),
                int((~part.converged).sum()),
                spread[task],
                len(part),
            )
        )
    names = ["task", "protocol", "log10_c", "at_edge", "not_converged", "seed_sd", "fits"]
    return pd.DataFrame(rows, columns=names)
