"""What a notebook talks to: one page of one profile, with its models, data, results, figures and provenance."""

import copy
import hashlib
import html
import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy import reference, results, tables
from beyond_accuracy.cards import Card
from beyond_accuracy.datasets import ImageDataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.outputs import Features, Outputs
from beyond_accuracy.paths import data_dir, figures_dir, report_dir
from beyond_accuracy.profiles import ModelSpec, Profile, load_profile, unknown
from beyond_accuracy.readers import load_dataset
from beyond_accuracy.store import Predictions, Store

COMPARISON_COLUMNS = (
    "dimension",
    "dataset",
    "metric",
    "model_a",
    "model_b",
    "difference",
    "ci_low",
    "ci_high",
    "p",
    "n",
    "unit",
)


class Study:
    """One page of one run. Get it with `open_study`."""

    def __init__(self, profile: Profile, dimension: str, store: Store, options: dict | None = None):
        self.profile, self.dimension, self.store = profile, dimension, store
        self.options = options or {}
        self.settings = profile.settings
        self.roles: dict = profile.dimensions.get(dimension, {})
        self._results: list[pd.DataFrame] = []
        self._comparisons: list[pd.DataFrame] = []
        self._findings: list[str] = []
        self.outputs = Outputs(profile, store, self.options)
        self._skipped: list[str] = []

    def under(self, *, limit: int = 0, **settings) -> "Study":
        """This page under other conventions: its predictions, cards and images are theirs, its results go here.

        Args:
            limit: Use at most this many images of every dataset, evenly spaced; 0 = as the profile says.
            **settings: Values of `Settings` by name (`precision="bf16"`).

        Raises:
            InputError: An unknown setting or value.
        """
        view = copy.copy(self)
        view.outputs = self.outputs.under(settings, limit)
        view.profile, view.settings = view.outputs.profile, view.outputs.profile.settings
        return view

    # Models and roles ---------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[str]:
        """Model names in profile order."""
        return list(self.profile.models)

    @property
    def specs(self) -> list[ModelSpec]:
        """The models' specs in profile order."""
        return list(self.profile.models.values())

    def spec(self, model: str) -> ModelSpec:
        """A model's spec.

        Raises:
            InputError: No such model in this profile.
        """
        if model not in self.profile.models:
            raise InputError(unknown("model", model, self.profile.models))
        return self.profile.models[model]

    @property
    def has_networks(self) -> bool:
        """Whether any model is a network (not imported predictions)."""
        return any(spec.source != "predictions" for spec in self.specs)

    def has_role(self, role: str) -> bool:
        """Whether this profile gives the role a dataset (or value) on this page."""
        return role in self.roles

    def role(self, role: str):
        """What plays a role on this page: a dataset name, a list of them, or an option's value.

        Raises:
            InputError: The profile gives the role nothing.
        """
        if role not in self.roles:
            raise InputError(
                f"profile {self.profile.name}: dimensions.{self.dimension} has no {role!r} "
                f"(it has {', '.join(self.roles) or 'nothing'})"
            )
        return self.roles[role]

    def title(self, dataset: str) -> str:
        """A dataset's name for readers."""
        return self.outputs.dataset_spec(dataset).title or dataset

    # Data ---------------------------------------------------------------------------------------------------------

    def dataset(self, dataset: str) -> ImageDataset:
        """The dataset itself."""
        return load_dataset(self.outputs.dataset_spec(dataset))

    def metadata(self, dataset: str) -> pd.DataFrame:
        """Per-image metadata, index `id`; select rows with `.loc[predictions.ids]`."""
        return self.dataset(self.outputs.base(dataset)).metadata

    def image(self, dataset: str, image_id: str) -> Image.Image:
        """One image, RGB."""
        data = self.dataset(self.outputs.base(dataset))
        return data.image(data.position(image_id))

    def class_names(self, dataset: str) -> tuple[str, ...]:
        """Name of every class index of the dataset's class space."""
        classes = self.dataset(self.outputs.base(dataset)).classes
        if classes is None:
            raise InputError(f"{dataset}: has no class space")
        return classes.names

    def available(self, datasets: Iterable[str]) -> list[str]:
        """Those datasets whose data is here; the others are listed on the page as left out."""
        found = []
        for name in datasets:
            try:
                self.dataset(self.outputs.base(name))
                found.append(name)
            except DataMissing as missing:
                self._skipped.append(str(missing))
        return found

    @property
    def skipped(self) -> list[str]:
        """Why datasets were left out, one message each."""
        return list(self._skipped)

    def predictions(self, dataset: str, transform: str = "none") -> dict[str, Predictions]:
        """Predictions of every model; runs what the store lacks.

        Imported models take part where their predictions cover the dataset.

        Raises:
            DataMissing: Images, weights or imported predictions are not on this machine.
        """
        return self.predictions_many(dataset, [transform])[transform]

    def predictions_many(self, dataset: str, transforms: list[str]) -> dict[str, dict[str, Predictions]]:
        """Predictions under several transforms, by transform text as given; each image is decoded once for all.

        All models are judged on the same images: where some lack an image (left out with `--skip-bad`), all do.
        """
        return self.outputs.predictions(dataset, transforms)

    def features(self, dataset: str) -> dict[str, Features]:
        """Features of every network; runs what the store lacks. Imported models have none.

        Raises:
            InputError: The profile does not keep this dataset's features, or some do not fit into float16.
        """
        return self.outputs.features(dataset)

    def card(self, model: str) -> Card | None:
        """What is known of a network without loading it (parameters, preprocessing); None for an imported model."""
        return self.outputs.card(self.spec(model))

    # Results ------------------------------------------------------------------------------------------------------

    def record(self, frame: pd.DataFrame) -> None:
        """Add rows of the results schema (`dimension` is filled in) and write this page's results file."""
        rows = results.validate_results(frame.assign(dimension=self.dimension))
        self._results.append(rows)
        results.write_dimension(self.report_folder, self.dimension, pd.concat(self._results, ignore_index=True))

    def compare(self, frame: pd.DataFrame) -> None:
        """Add differences between models (docs/architecture.md, Comparisons) and write this page's file."""
        rows = frame.assign(dimension=self.dimension)
        if missing := set(COMPARISON_COLUMNS) - set(rows.columns):
            raise InputError(f"comparisons: missing columns {', '.join(sorted(missing))}")
        if "p_floor" not in rows:  # the smallest p-value the test can give; 0 for tests that do not resample
            rows = rows.assign(p_floor=0.0)
        self._comparisons.append(rows[[*COMPARISON_COLUMNS, "p_floor"]].fillna({"p_floor": 0.0}))
        text = results.csv_text(pd.concat(self._comparisons, ignore_index=True))
        results.write_atomically(self.report_folder / "comparisons" / f"{self.dimension}.csv", text.encode())

    def figure(self, fig, name: str, *, alt: str, caption: str, data: pd.DataFrame) -> None:
        """Save a figure as SVG, PNG and CSV under `figures/<profile>/<dimension>/` and show it."""
        import matplotlib.pyplot as plt

        folder = figures_dir(self.profile.name) / self.dimension
        record = results.save_figure(fig, folder, _file_name(name), alt, caption, data)
        plt.close(fig)
        results.display_figure(record)

    def table(self, frame: pd.DataFrame, name: str, *, caption: str, **options) -> None:
        """Save a table as CSV beside the figures and show it; options as `tables.table_html`."""
        name = _file_name(name)
        path = figures_dir(self.profile.name) / self.dimension / f"table-{name}.csv"
        results.write_atomically(path, results.csv_text(frame, index=bool(options.get("index"))).encode())
        tables.display_table(frame, caption, name=name, **options)

    def finding(self, sentence: str) -> None:
        """Show one computed sentence, and keep it for the front page."""
        from IPython.display import Markdown, display

        self._findings.append(sentence)
        text = json.dumps(self._findings, indent=1, ensure_ascii=False)
        results.write_atomically(self.report_folder / "findings" / f"{self.dimension}.json", text.encode())
        # Model and class names come from files; Markdown would let their tags through.
        display(Markdown(f"**{html.escape(sentence, quote=False)}**"))

    def paper(self, dataset: str, metric: str) -> pd.DataFrame:
        """The paper's values of a metric, for those models of the profile that are the paper's checkpoints.

        Another checkpoint under the same name has none, nor has any model of a profile marked `synthetic`.
        """
        values = reference.paper_values(self.dimension, dataset, metric)
        known = [] if self.profile.synthetic else [s.name for s in self.specs if reference.is_checkpoint(s)]
        return values[values["model"].isin(known)]

    def rng(self, stream: int = 0) -> np.random.Generator:
        """A generator from the profile's seed; `stream` separates independent uses on one page."""
        return np.random.default_rng([self.settings.seed, stream])

    def provenance(self) -> None:
        """Show what made the page's numbers; the last cell of every notebook."""
        from IPython.display import display

        rows = [
            {
                "model": meta.get("model", ""),
                "weights": meta.get("model_id") or "imported",
                "weights hash": str(meta.get("key_parts", {}).get("weights") or meta.get("file_hash", "")),
                "dataset": meta.get("dataset", ""),
                "runs": count,
                "preprocessing": meta.get("key_parts", {}).get("geometry", "as imported"),
                "precision": meta.get("key_parts", {}).get("precision", ""),
                "changed": meta.get("convention", ""),
                "logit scale": meta.get("key_parts", {}).get("logit_scale"),
                "device": meta.get("device", ""),
                "images left out": len(meta.get("skipped", [])),
            }
            for meta, count in _grouped(self.outputs.used.values())
        ]
        frame = pd.DataFrame(rows)
        for name in ("images left out", "changed"):
            if rows and not frame[name].any():
                frame = frame.drop(columns=name)
        text = tables.table_html(
            frame, "What made these numbers", name=f"provenance-{self.dimension.replace('_', '-')}"
        )
        display({"text/html": text, "text/plain": frame.to_string(index=False)}, raw=True)

    @property
    def report_folder(self) -> Path:
        """`report/<profile>`."""
        return report_dir(self.profile.name)

    @property
    def used(self) -> list[str]:
        """Keys of the store entries this page has read so far: a page is unchanged while they are."""
        return sorted(self.outputs.used)

    @cached_property
    def data_folder(self) -> Path:
        """Where datasets are looked for."""
        return data_dir()


def _file_name(name: str) -> str:
    """A name that holds a dataset's or model's own, which may be in any script, as one for files and links."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")


def open_study(profile: str, dimension: str, models: str = "", **options) -> Study:
    """Open one page of a profile.

    Args:
        profile: Name of a shipped profile or path of a YAML file.
        dimension: The page (`calibration`, `mistakes`, …).
        models: Comma-separated subset; names outside the profile are taken as imported predictions.
        **options: `device`, `batch_size`, `skip_bad`, `progress`.

    Raises:
        InputError: Unknown profile, or a profile without this dimension.
    """
    from beyond_accuracy import engine_ray, plots  # noqa: F401  # the engine: outputs can be computed by it

    loaded = load_profile(profile)
    if dimension not in loaded.dimensions:
        raise InputError(f"profile {loaded.name}: {unknown('dimension', dimension, loaded.dimensions)}")
    plots.use_theme()
    return Study(loaded.select(models), dimension, Store(), options)


def classify(study: Study, dataset: str, image: Image.Image, top: int = 3) -> pd.DataFrame:
    """What every network of the profile says about one image that belongs to no dataset.

    Args:
        study: The open study.
        dataset: A dataset whose class space is asked about.
        image: RGB image of any size.
        top: Classes per model.

    Returns:
        Columns `model, label, probability`, most likely first.
    """
    import torch

    from beyond_accuracy import inference
    from beyond_accuracy.models import model_for

    classes = study.dataset(dataset).classes
    if classes is None:
        raise InputError(f"{dataset}: has no class space")
    classes = classes.prompted(study.settings.prompts)
    device = inference.pick_device(study.outputs.device)
    rows = []
    for name in study.models:
        card = study.card(name)
        if card is None:
            continue
        model = model_for(card, study.settings, study.profile.imports).to(device)
        head = inference.text_head(model, classes, device, study.store)
        pixels = torch.from_numpy(np.array(model.geometry.apply(image))).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            logits = model.outputs(model.normalize(pixels), head)["logits"]
        probabilities, best = logits.float().softmax(-1)[0].topk(min(top, len(classes)))
        rows += [(name, classes.names[k], float(p)) for k, p in zip(best.tolist(), probabilities, strict=True)]
    return pd.DataFrame(rows, columns=["model", "label", "probability"])


def _grouped(metas) -> list[tuple[dict, int]]:
    groups: dict[tuple, tuple[dict, int]] = {}
    for meta in metas:
        key = (meta.get("model"), meta.get("dataset"), meta.get("convention"))
        first, count = groups.get(key, (meta, 0))
        groups[key] = (first if first.get("transform") == "none" or count else meta, count + 1)
    return sorted(groups.values(), key=lambda item: (str(item[0].get("model")), str(item[0].get("dataset"))))
