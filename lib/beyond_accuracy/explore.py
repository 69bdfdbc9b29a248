"""The live part: panels for JupyterLab that ask the same questions as the report, interactively.

Each function returns one ipywidgets panel; `notebooks/explore.ipynb` shows them. Everything reads the store, so a
panel answers in well under a second once a report has been built.
"""

import html
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import expanded
from beyond_accuracy.data.dataset import opened, to_rgb
from beyond_accuracy.data.readers.files import IMAGE_SUFFIXES, is_image
from beyond_accuracy.dimensions.calibration import ece, reliability
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.measure import tidy
from beyond_accuracy.measure.verdicts import counted
from beyond_accuracy.page import Page, classify
from beyond_accuracy.show import theme

THUMBNAIL = 144
Drawing = widgets.Widget | plt.Figure | str
KINDS = ("confident mistakes", "models disagree", "all models wrong", "unsure and right", "random")


def reliability_panel(study: Page) -> widgets.Widget:
    """Reliability diagram of a model on a dataset for any number of bins, equal-width or equal-mass."""
    dataset = _datasets(study)
    model = _models(study)
    bins = widgets.IntSlider(15, 2, 50, description="bins", continuous_update=False)
    binning = widgets.Dropdown(options=[("equal width", "width"), ("equal mass", "mass")], description="binning")

    def show():
        """Accuracy against confidence per bin with Wilson intervals; the title gives ECE, accuracy and n."""
        found, look = study.predictions(dataset.value)[model.value], theme.style(study.spec(model.value))
        cut = found.confidence, found.correct, bins.value, binning.value
        table, (fig, ax) = reliability(*cut), plt.subplots(figsize=(6.4, 4.8))
        ax.plot([0, 1], [0, 1], color=theme.GREY, linestyle=":")
        theme.errorbar(ax, table.assign(model="", value=table["accuracy"]), "confidence", {"": look}, capsize=2)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence of the bin", ylabel="accuracy of the bin")
        ax.set_title(f"{look.label}: ECE {ece(*cut):.4f}, accuracy {found.correct.mean():.1%}, n = {len(found):,}")
        yield fig

    return _panel([model, dataset, bins, binning], show)


def image_browser(study: Page, columns: int = 6) -> widgets.Widget:
    """Images behind the numbers: confident mistakes, disagreements, and more, by model and class."""
    dataset = _datasets(study)
    model = _models(study)
    kind = widgets.Dropdown(options=KINDS, description="show")
    label = widgets.Dropdown(options=[("every class", -1)], description="class")
    page = widgets.BoundedIntText(1, 1, 10_000, description="page")
    grid = widgets.Layout(grid_template_columns=f"repeat(auto-fill, {THUMBNAIL + 8}px)", grid_gap="8px")

    def refresh_classes(*_):
        names = study.class_names(dataset.value)
        label.options = [("every class", -1), *((name, k) for k, name in enumerate(names))]

    dataset.observe(refresh_classes, names="value")
    refresh_classes()

    def show():
        runs = study.predictions(dataset.value)
        chosen = select(runs, model.value, kind.value, label.value)
        pages = max(1, -(-len(chosen) // (2 * columns)))
        start = (min(page.value, pages) - 1) * 2 * columns
        rows = chosen.iloc[start : start + 2 * columns]
        told = {name: run.frame for name, run in runs.items() if name == model.value or "models" in kind.value}
        cards = [_card(study, dataset.value, {name: said.loc[at] for name, said in told.items()}) for at in rows.index]
        seen = f"images {start + 1} to {start + len(rows)} of {len(chosen):,}"
        count = f"{seen}; page {min(page.value, pages)} of {pages:,}"
        caption = widgets.HTML(count if len(chosen) else "no such images")
        yield widgets.VBox([caption, widgets.GridBox(cards, layout=grid)])

    return _panel([dataset, model, kind, label, page], show)


def select(predictions: dict[str, Predictions], model: str, kind: str, label: int = -1) -> pd.DataFrame:
    """Rows `id, target, pred, confidence` of one model of a single-label dataset, most telling first (`KINDS`)."""
    mine = predictions[model]
    answers = np.stack([p.pred for p in predictions.values()])
    right = np.stack([p.correct for p in predictions.values()])
    keep, order = {
        "confident mistakes": (~mine.correct, -mine.confidence),
        "models disagree": ((answers != answers[0]).any(axis=0), -mine.confidence),
        "all models wrong": (~right.any(axis=0), -mine.confidence),
        "unsure and right": (mine.correct, mine.confidence),
        "random": (np.ones(len(mine), bool), np.random.default_rng(0).permutation(len(mine))),
    }[kind]
    places = np.argsort(order, kind="stable")
    keep = keep & ((mine.targets == label) | (label < 0))
    return mine.frame[["id", "target", "pred", "confidence"]].iloc[places[keep[places]]]


def factor_panel(study: Page, dataset: str) -> widgets.Widget:
    """Accuracy of every model over the levels of one factor of a sweep, with Wilson intervals; images a level."""
    factors = sorted(study.metadata(dataset, "factor", "level")["factor"].unique())
    _filled(study, dataset)
    chosen = widgets.Dropdown(options=[(name.replace("_", " "), name) for name in factors], description="factor")

    def show():
        runs, parts = study.predictions(dataset), []
        about = study.metadata(dataset).loc[next(iter(runs.values())).ids].reset_index(drop=True)
        for level, images in about[about["factor"] == chosen.value].groupby("level", sort=False):
            right = {name: run.correct[images.index] for name, run in runs.items()}
            parts.append(tidy.accuracy(right).assign(level=str(level)))
        rows, (fig, ax) = pd.concat(parts), plt.subplots(figsize=(6.4, 3.6))
        theme.errorbar(ax, rows, "level", theme.styles(study.specs), line=True, capsize=2)
        ax.set(xlabel=chosen.label, ylabel="accuracy (%)", ylim=(0, 100))
        ax.set_title(f"n = {rows['n'].min():,} to {rows['n'].max():,} images a level")
        ax.tick_params(axis="x", rotation=45)
        ax.legend()
        yield fig

    return _panel([chosen], show)


def own_images(study: Page, dataset: str) -> widgets.Widget:
    """Upload images, or give a folder: every network's likeliest classes of the dataset's class space."""
    upload = widgets.FileUpload(accept="image/*", multiple=True)
    folder = widgets.Text(placeholder="or a folder of images", description="folder", continuous_update=False)

    def show() -> Iterator[widgets.Widget | str]:
        pictures, rest = [(f["name"], bytes(f["content"])) for f in upload.value], 0
        if folder.value:
            found, rest = read_folder(expanded(folder.value))
            pictures += found
        for name, content in pictures:
            try:
                image = to_rgb(ImageOps.exif_transpose(opened(content)))  # one's own, as a viewer shows it
            except Exception as error:  # damaged files make Pillow raise nearly anything
                yield f"{name}: cannot be decoded ({type(error).__name__}), left out"
                continue
            yield widgets.HBox([_thumbnail(image), _answers(study, dataset, name, image)])
        if rest:
            yield f"not shown of the folder: {counted(rest, 'more image')}"

    return _panel([upload, folder], show)


def read_folder(folder: Path, limit: int = 24) -> tuple[list[tuple[str, bytes]], int]:
    """The first images of a folder and of class folders in it, as name and content, and how many more there are."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    files = sorted(path for path in (*folder.iterdir(), *folder.glob("*/*")) if is_image(path.name) and path.is_file())
    if not files:
        raise InputError(f"{folder}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    found = [(str(file.relative_to(folder)), file.read_bytes()) for file in files[:limit]]
    return found, max(0, len(files) - limit)


def _answers(study: Page, dataset: str, name: str, image: Image.Image) -> widgets.Widget:
    rows = "".join(
        f"<tr><td>{html.escape(study.spec(row.model).label)}</td><td>{html.escape(row.label)}</td>"
        f"<td style='text-align:right'>{row.probability:.1%}</td></tr>"
        for row in classify(study, dataset, image).itertuples()
    )
    return widgets.HTML(f"<b>{html.escape(name)}</b><table>{rows}</table>")


def _models(study: Page) -> widgets.Dropdown:
    return widgets.Dropdown(options=[(study.labels[name], name) for name in study.models], description="model")


def _datasets(study: Page) -> widgets.Dropdown:
    """Datasets of the profile whose images are here and have one label each, of a class space that models answer in."""
    names = study.available(n for n, spec in study.profile.datasets.items() if spec.reader != "imagenet_real")
    sets = [(name, study.dataset(name)) for name in names]
    options = [(study.title(name), name) for name, data in sets if data.classes is not None and not data.multilabel]
    if options:
        _filled(study, options[0][1])
    return widgets.Dropdown(options=options, description="dataset")


def _filled(study: Page, dataset: str) -> None:
    """Runs what a panel first shows, before any widget is made: with a bar in its cell, and none that nobody finds."""
    with suppress(InputError, DataMissing):  # the panel says so
        study.predictions(dataset)


def _panel(controls: list[widgets.Widget], draw: Callable[[], Iterator[Drawing]]) -> widgets.Widget:
    """Controls above what is drawn by them, anew with every change; a message of ours is shown, not raised.

    No `widgets.Output`: papermill's client answers such a one while a cell runs, and can then miss the cell's end and
    wait until it runs out of time.
    """
    below = widgets.VBox()

    def refresh(*_):
        shown = []
        try:
            for thing in draw():
                shown.append(_drawn(thing))
        except (InputError, DataMissing, OSError) as error:
            shown.append(_drawn(str(error)))
        below.children = shown

    for control in controls:
        control.observe(refresh, names="value")
    refresh()
    return widgets.VBox([widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap")), below])


def _drawn(thing: Drawing) -> widgets.Widget:
    if isinstance(thing, str):
        return widgets.HTML(html.escape(thing))
    if isinstance(thing, plt.Figure):
        thing.savefig(buffer := io.BytesIO(), format="png", dpi=192)  # twice the pixels that are shown
        plt.close(thing)
        return widgets.Image(value=buffer.getvalue(), format="png", width=Image.open(buffer).width // 2)
    return thing


def _card(study: Page, dataset: str, told: dict[str, pd.Series]) -> widgets.Widget:
    """An image, its label and what models say of it, each on a line with its name where they are several."""
    names, one = [html.escape(name) for name in study.class_names(dataset)], next(iter(told.values()))
    said = [f"<b>{names[row['pred']]}</b> {row['confidence']:.0%}" for row in told.values()]
    if len(told) > 1:
        said = [f"<br>{html.escape(study.labels[model])}: {text}" for model, text in zip(told, said, strict=True)]
    text = f"{names[one['target']]} → {''.join(said)}<br><small>{html.escape(one['id'])}</small>"
    return widgets.VBox([_thumbnail(study.image(dataset, one["id"])), widgets.HTML(text)])


def _thumbnail(image: Image.Image) -> widgets.Widget:
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return widgets.Image(value=buffer.getvalue(), format="png", width=image.width)
