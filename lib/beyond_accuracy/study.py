"""What a notebook talks to: one page of one profile, with its models, data, results, figures and provenance."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy import reference, results
from beyond_accuracy.datasets import ImageDataset, load_dataset
from beyond_accuracy.errors import DataMissing, InputError
from beyond_accuracy.paths import data_dir, figures_dir, report_dir
from beyond_accuracy.profiles import DatasetSpec, ModelSpec, Profile, load_profile, unknown
from beyond_accuracy.store import Entry, Predictions, Store

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


@dataclass(frozen=True)
class Features:
    """What one model extracted from every image of one dataset.

    Attributes:
        model: Model name.
        dataset: Dataset name.
        ids: Image ids (n,).
        targets: int64 labels (n,), or a list for multi-label sets.
        layers: float16 arrays (n, width), memory-mapped, by layer: `pre_logits` for timm; `trunk` and `projected`
            (before and after the projection into the shared space, not normalised) for CLIP.
        meta: What made them.
    """

    model: str
    dataset: str
    ids: np.ndarray
    targets: np.ndarray | list[np.ndarray]
    layers: dict[str, np.ndarray]
    meta: dict


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
        self._used: dict[str, dict] = {}
        self._skipped: list[str] = []

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
        return self._dataset_spec(dataset).title or dataset

    # Data ---------------------------------------------------------------------------------------------------------

    def dataset(self, dataset: str) -> ImageDataset:
        """The dataset itself."""
        return load_dataset(self._dataset_spec(dataset))

    def metadata(self, dataset: str) -> pd.DataFrame:
        """Per-image metadata, index `id`; select rows with `.loc[predictions.ids]`."""
        return self.dataset(self._base(dataset)).metadata

    def image(self, dataset: str, image_id: str) -> Image.Image:
        """One image, RGB."""
        data = self.dataset(self._base(dataset))
        return data.image(data.position(image_id))

    def class_names(self, dataset: str) -> tuple[str, ...]:
        """Name of every class index of the dataset's class space."""
        classes = self.dataset(self._base(dataset)).classes
        if classes is None:
            raise InputError(f"{dataset}: has no class space")
        return classes.names

    def available(self, datasets: Iterable[str]) -> list[str]:
        """Those datasets whose data is here; the others are listed on the page as left out."""
        found = []
        for name in datasets:
            try:
                self.dataset(self._base(name))
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
        """Predictions under several transforms, by transform text as given; each image is decoded once for all."""
        spec = self._dataset_spec(dataset)
        if spec.reader == "imagenet_real":
            from beyond_accuracy.annotations import real_labels

            base = self.predictions_many(self._base(dataset), transforms)
            labels = real_labels()
            return {t: {m: p.relabel(dataset, labels) for m, p in by_model.items()} for t, by_model in base.items()}
        data = load_dataset(spec)
        entries = self._entries(data, transforms, features=False)
        return {
            text: {name: _read(entry, name, data, text) for name, entry in by_model.items() if entry is not None}
            for text, by_model in entries.items()
        }

    def features(self, dataset: str) -> dict[str, Features]:
        """Features of every network; runs what the store lacks. Imported models have none."""
        data = self.dataset(dataset)
        entries = self._entries(data, ["none"], features=True)["none"]
        found = {}
        for name, entry in entries.items():
            if entry is None or self.spec(name).source == "predictions":
                continue
            frame = entry.frame()
            layers = {layer: entry.array(f"features-{layer}") for layer in entry.layers()}
            targets = frame["target"].to_numpy() if frame["target"].dtype != object else list(frame["target"])
            found[name] = Features(name, dataset, frame["id"].to_numpy(), targets, layers, entry.meta)
        return found

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
        self._comparisons.append(rows[list(COMPARISON_COLUMNS)])
        text = results.csv_text(pd.concat(self._comparisons, ignore_index=True))
        results.write_atomically(self.report_folder / "comparisons" / f"{self.dimension}.csv", text.encode())

    def figure(self, fig, name: str, *, alt: str, caption: str, data: pd.DataFrame) -> None:
        """Save a figure as SVG, PNG and CSV under `figures/<profile>/<dimension>/` and show it."""
        import matplotlib.pyplot as plt

        folder = figures_dir(self.profile.name) / self.dimension
        record = results.save_figure(fig, folder, name, alt, caption, data)
        plt.close(fig)
        results.display_figure(record)

    def table(self, frame: pd.DataFrame, name: str, *, caption: str, **options) -> None:
        """Save a table as CSV beside the figures and show it; options as `results.table_html`."""
        path = figures_dir(self.profile.name) / self.dimension / f"table-{name}.csv"
        results.write_atomically(path, results.csv_text(frame, index=bool(options.get("index"))).encode())
        results.display_table(frame, caption, name=name, **options)

    def finding(self, sentence: str) -> None:
        """Show one computed sentence, and keep it for the front page."""
        from IPython.display import Markdown, display

        self._findings.append(sentence)
        text = json.dumps(self._findings, indent=1, ensure_ascii=False)
        results.write_atomically(self.report_folder / "findings" / f"{self.dimension}.json", text.encode())
        display(Markdown(f"**{sentence}**"))

    def paper(self, dataset: str, metric: str) -> pd.DataFrame:
        """The paper's values of a metric, for this profile's models under the same names.

        Empty where the profile's models are not the paper's checkpoints (every profile marked `synthetic`).
        """
        values = reference.paper_values(self.dimension, dataset, metric)
        if self.profile.synthetic:
            return values.iloc[0:0]
        return values[values["model"].isin(self.models)]

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
                "logit scale": meta.get("key_parts", {}).get("logit_scale"),
                "device": meta.get("device", ""),
            }
            for meta, count in _grouped(self._used.values())
        ]
        frame = pd.DataFrame(rows)
        self._write_state()
        text = results.table_html(
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
        return sorted(self._used)

    # Inside -------------------------------------------------------------------------------------------------------

    def _dataset_spec(self, name: str) -> DatasetSpec:
        if name not in self.profile.datasets:
            raise InputError(f"profile {self.profile.name}: {unknown('dataset', name, self.profile.datasets)}")
        return self.profile.datasets[name]

    def _base(self, name: str) -> str:
        """The dataset whose images a re-labelled set (ReaL) shares."""
        spec = self._dataset_spec(name)
        return str(spec.options.get("of", "imagenet_1k")) if spec.reader == "imagenet_real" else name

    def _entries(self, data: ImageDataset, transforms: list[str], features: bool) -> dict[str, dict[str, Entry | None]]:
        """Store entries by transform and model, complete; None where an imported model does not cover the set."""
        networks = [spec for spec in self.specs if spec.source != "predictions"]
        entries: dict[str, dict[str, Entry | None]] = {text: {} for text in transforms}
        if networks:
            for (text, name), entry in self._run(networks, data, transforms, features).items():
                entries[text][name] = entry
        for spec in self.specs:
            if spec.source == "predictions" and not features:
                entry = self.store.imported(spec.name, data.name)
                for text in transforms:
                    entries[text][spec.name] = entry if entry.complete and text == "none" else None
        if not networks and not any(e is not None for by_model in entries.values() for e in by_model.values()):
            names = ", ".join(self.models) or "any model"
            raise DataMissing(
                f"no predictions of {names} on {data.name}: import them with "
                f"`beyond-accuracy import-predictions FILE.csv --model NAME --dataset {data.name}`"
            )
        order = self.models
        for text, by_model in entries.items():
            entries[text] = {name: by_model[name] for name in order if name in by_model}
            for entry in by_model.values():
                if entry is not None:
                    self._used[entry.meta.get("key") or f"{entry.folder}:{entry.meta.get('file_hash')}"] = entry.meta
        self._write_state()
        return entries

    def _run(self, specs, data, transforms, features) -> dict[tuple[str, str], Entry]:
        from beyond_accuracy import inference

        device = inference.pick_device(self.options.get("device") or os.environ.get("BEYOND_ACCURACY_DEVICE", "auto"))
        models = [_model(spec, self.settings, self.profile.imports) for spec in specs]
        jobs = inference.plan(models, data, transforms, self.store, self.settings, device, features)
        options = inference.Options(
            batch_size=int(self.options.get("batch_size") or 0),
            skip_bad=bool(self.options.get("skip_bad") or os.environ.get("BEYOND_ACCURACY_SKIP_BAD")),
            progress=bool(self.options.get("progress", True)),
        )
        inference.run(jobs, data, self.settings, options, device, features)
        texts = [text for _ in models for text in transforms]
        return {(text, job.model.name): job.entry for text, job in zip(texts, jobs, strict=True)}

    def _write_state(self) -> None:
        """Record which store entries the page used: the page is rebuilt when one of them changes."""
        state = {"profile": self.profile.digest, "entries": sorted(self._used)}
        text = json.dumps(state, indent=1)
        results.write_atomically(self.report_folder / ".state" / f"{self.dimension}.json", text.encode())

    @cached_property
    def data_folder(self) -> Path:
        """Where datasets are looked for."""
        return data_dir()


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
    from beyond_accuracy import plots

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

    classes = study.dataset(dataset).classes
    device = inference.pick_device(study.options.get("device") or "auto")
    rows = []
    for spec in study.specs:
        if spec.source == "predictions":
            continue
        model = _model(spec, study.settings, study.profile.imports).to(device)
        pixels = torch.from_numpy(np.array(model.geometry.apply(image))).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            logits = model.outputs(model.normalize(pixels), model.head(classes, device))["logits"]
        probabilities, best = logits.float().softmax(-1)[0].topk(min(top, len(classes)))
        rows += [(spec.name, classes.names[k], float(p)) for k, p in zip(best.tolist(), probabilities, strict=True)]
    return pd.DataFrame(rows, columns=["model", "label", "probability"])


@lru_cache(maxsize=8)
def _model(spec: ModelSpec, settings, imports: tuple[str, ...]):
    from beyond_accuracy.models import load_model

    return load_model(spec, settings, imports)


def _read(entry: Entry, name: str, data: ImageDataset, transform: str) -> Predictions:
    return Predictions(name, data.name, transform, entry.frame(), entry.array("logits"), data.columns, entry.meta)


def _grouped(metas) -> list[tuple[dict, int]]:
    groups: dict[tuple, tuple[dict, int]] = {}
    for meta in metas:
        key = (meta.get("model"), meta.get("dataset"))
        first, count = groups.get(key, (meta, 0))
        groups[key] = (first if first.get("transform") == "none" or count else meta, count + 1)
    return sorted(groups.values(), key=lambda item: (str(item[0].get("model")), str(item[0].get("dataset"))))
