"""CLIP's zero-shot answers to a probe task, from stored features and the task's own prompts.

The image side is in the store already (features after the projection); only class names are encoded here. So a set
whose class names come with its images (the hub's `classnames.txt` and `zeroshot_classification_templates.txt`) needs
no forward pass beside that of the probes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import atomic_write
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.dimensions.transfer import vtab
from beyond_accuracy.dimensions.transfer.probe import chunks
from beyond_accuracy.dimensions.transfer.run import Runs
from beyond_accuracy.dimensions.transfer.tasks import TaskData
from beyond_accuracy.inference.store import make_key

if TYPE_CHECKING:
    from beyond_accuracy.data.dataset import ImageDataset
    from beyond_accuracy.inference.outputs import Features
    from beyond_accuracy.page import Page

LAYER = "projected"


def prompts_of(dataset: "ImageDataset") -> ClassSpace | None:
    """Class names and templates of a set: its class space, or the files beside its shards; None without either.

    Raises:
        InputError: Templates without the placeholder ``{c}``.
    """
    if dataset.classes is not None:
        return dataset.classes
    root = Path(dataset.source)
    names, templates = root / "classnames.txt", root / "zeroshot_classification_templates.txt"
    if not (names.is_file() and templates.is_file()):
        return None
    lines = templates.read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if "{c}" not in line]
    if wrong or not lines:
        raise InputError(
            f"{templates}: every line needs the placeholder {{c}}, found {wrong[0] if wrong else 'none'!r}"
        )
    # an empty line is a class name too (one VTAB task has one)
    classes = tuple(names.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    return ClassSpace(dataset.name, tuple(map(str, range(len(classes)))), classes, tuple(lines))


def text_head(study: "Page", model: str, classes: ClassSpace) -> NDArray[np.float32]:
    """The zero-shot classifier of a CLIP model: (width, n_classes), columns of length 1."""
    import torch

    from beyond_accuracy.models.load import model_for

    network = model_for(study.card(model), study.settings, study.profile.imports)
    return network.head(classes, torch.device("cpu")).numpy()


def answers(projected: NDArray, head: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class with the most similar text for each row: argmax of the cosine, the lowest index on ties.

    The length of a row and the logit scale do not move an argmax, so neither is needed.

    Args:
        projected: (n, width) image features in the shared space.
        head: (width, n_classes).
        rows: Ascending rows to answer for.
    """
    parts = [np.asarray(projected[part], np.float32) @ head for part in chunks(rows, projected.shape[1])]
    return np.concatenate([scores.argmax(axis=1) for scores in parts]).astype(np.int64)


def zero_shot(
    study: "Page", data: TaskData, features: dict[str, "Features"], folder: Path | None = None
) -> Runs | None:
    """Zero-shot correctness of the CLIP models on a task's test images, in the form of probe runs.

    Returns:
        The runs (one "seed"), or None where there is no CLIP model or the set has no class names.

    Raises:
        InputError: If the set names fewer classes than its labels need.
    """
    models = [name for name, found in features.items() if LAYER in found.layers]
    classes = prompts_of(study.dataset(data.task.dataset))
    if not models or classes is None or not data.task.zero_shot:
        return None
    test = np.flatnonzero(data.fold == "test")
    rows = data.rows[test]
    targets = np.asarray(features[models[0]].targets, np.int64)[rows]
    if targets.max() >= len(classes):
        raise InputError(f"{data.task.dataset}: label {targets.max()}, but only {len(classes)} class names")
    known = vtab.tasks().get(data.task.name)
    correct = {}
    for model in models:
        found = features[model]
        key = make_key({"zero_shot": 1, "features": found.meta.get("key"), "prompts": classes.prompt_hash})
        path = None if folder is None else folder / f"{key}.npy"
        if path is not None and path.is_file():
            head = np.load(path, allow_pickle=False)
        else:
            head = text_head(study, model, classes)
            if path is not None:
                atomic_write(path, lambda p, values=head: _save(p, values))
        given = answers(found.layers[LAYER], head, rows)
        right = given == targets if known is None else known.merge(given) == known.merge(targets)
        correct[model] = right[None, :]
    layers = dict.fromkeys(models, "zero_shot")
    return Runs(data.task, "zero_shot", "main", correct, layers, pd.DataFrame(), data.groups[test], 0)


def against_probe(probed: Sequence[Runs], zero: Sequence[Runs]) -> pd.DataFrame:
    """Probe and zero-shot accuracy of the CLIP models, task by task, on the same test images.

    Returns:
        Rows ``task, model, probe, zero_shot`` in percent.
    """
    by_task = {run.task.name: run for run in probed}
    rows = [
        (run.task.name, model, 100 * by_task[run.task.name].correct[model].mean(), 100 * right.mean())
        for run in zero
        for model, right in run.correct.items()
    ]
    return pd.DataFrame(rows, columns=["task", "model", "probe", "zero_shot"])


def _save(path: Path, values: NDArray) -> None:
    with path.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)
