"""In a notebook, in few lines: what `import beyond_accuracy as ba` offers.

>>> import beyond_accuracy as ba
>>> answers = ba.predictions("dinov2_b", "pets")  # doctest: +SKIP
>>> ba.ece(answers)  # doctest: +SKIP
>>> ba.errors(answers)  # doctest: +SKIP
>>> ba.compare("pets", ["dinov2_b", "clip_b"], depth="quick")  # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from beyond_accuracy.base.paths import expanded, report_dir
from beyond_accuracy.base.profile import DatasetSpec, parse_profile
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.dimensions import calibration
from beyond_accuracy.inference.outputs import Outputs
from beyond_accuracy.inference.store import Store
from beyond_accuracy.report import compare as comparing
from beyond_accuracy.show import figures

__all__ = ["Estimate", "compare", "ece", "errors", "predictions"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and what it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n:,}"

    __repr__ = __str__


def compare(folder: str | Path, models: Sequence[str] = (), **options) -> Path:
    """The report on your images, as `beyond-accuracy compare` builds it; returns its front page.

    Args:
        folder: Class folders, splits above them, or a table `path,label`.
        models: As `--models`; default: all shipped candidates whose weights can be had.
        **options: Of `report.compare.compare`: `depth`, `everything`, `name`, `options`.
    """
    comparing.compare(folder, models, **options)
    return report_dir(comparing.report_name(folder, options.get("name", ""))) / "index.html"


def predictions(model: str, images: str | Path, head: str = "probe", **options) -> pd.DataFrame:
    """What a model says of every image, a row each, with all that is known of the image.

    Args:
        model: As in `--models`: a shipped candidate, `timm:NAME`, `open_clip:NAME/TAG`, `PROFILE:MODEL`.
        images: As for `compare`; with given splits, those asked are the test images.
        head: `probe`, `knn`, `zero_shot`, or `own` where the checkpoint's classes are the folder's.
        **options: Of the inference: `device`, `batch_size`, `skip_bad`, `progress`.

    Returns:
        `id, label, answer, right, confidence, label_probability` and the metadata.
    """
    (candidate,), imports = comparing.chosen([model])
    path = expanded(images).resolve()
    content = comparing.draft(path, [replace(candidate.spec, head=head)], imports, "quick")
    outputs = Outputs(parse_profile(content, path), Store(), options)
    run = outputs.predictions("images", ["none"])["none"][candidate.spec.name]
    data = outputs.data("images")
    said = {"id": run.ids, "label": np.take(data.classes.names, run.targets)}
    said |= {"answer": np.take(data.classes.names, run.pred), "right": run.correct, "confidence": run.confidence}
    frame = pd.DataFrame(said | {"label_probability": run.target_probability}).set_index("id")
    frame = frame.join(data.metadata[[c for c in data.metadata if c not in frame]]).reset_index()
    frame.attrs = {"images": str(path)}
    return frame


def ece(answers: pd.DataFrame, bins: int = 15) -> Estimate:
    """Calibration error without the bias of noisy bins: how far confidence is from accuracy, 0.02 being two points."""
    found = calibration.ece_debiased(answers["confidence"], answers["right"], bins)
    null = calibration.null_ece(answers["confidence"], 2000, np.random.default_rng(0), bins)
    return Estimate(found.value, *found.interval(null), len(answers))


def errors(answers: pd.DataFrame, n: int = 12):
    """Pictures of the most confident errors of `predictions`, each with its label and answer; a matplotlib figure."""
    wrong = answers[~answers["right"]].sort_values("confidence", ascending=False, kind="stable").head(n)
    data = load_dataset(DatasetSpec("images", "own", answers.attrs["images"], classes=""))
    rows = list(wrong[["id", "label", "answer", "confidence"]].itertuples(index=False))
    captions = [f"{row.label}\nanswer: {row.answer} ({row.confidence:.0%})" for row in rows]
    return figures.gallery([data.image(data.position(row.id)) for row in rows], captions)
