"""What a notebook talks to: one page of one profile, with its models, data, results, figures and provenance."""

import copy
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import figures_dir, report_dir, resolve
from beyond_accuracy.base.profile import ModelSpec, Profile, load_profile, unknown
from beyond_accuracy.data import published
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.outputs import Features, Outputs
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import replicates, tidy, verdicts
from beyond_accuracy.models.card import Card
from beyond_accuracy.show import metrics, pictures, results, tables, theme

COMPARISON_COLUMNS = results.COMPARISON_COLUMNS
MAIN, DETAIL = "main", "detail"  # families: the headline numbers of a page, and everything else it compares


class Page:
    """One page of one run. Get it with `open_page`."""

    def __init__(
        self,
        profile: Profile,
        dimension: str,
        store: Store,
        options: dict | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ):
        self.profile, self.dimension, self.store = profile, dimension, store
        self.options, self.seed, self.resamples = options or {}, seed, resamples
        self.settings = profile.settings
        self.roles: dict = profile.dimensions.get(dimension, {})
        self._results: list[pd.DataFrame] = []
        self._compared: list[str] = []  # a list, as views of the page share it
        self._findings: list[str] = []
        self.outputs = Outputs(profile, store, self.options)
        self._skipped: list[str] = []

    def under(self, *, limit: int = 0, **settings) -> "Page":
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

    @cached_property
    def styles(self) -> dict[str, theme.ModelStyle]:
        """Look of every model, in profile order."""
        return theme.styles(self.specs)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Model -> its name for readers."""
        return {spec.name: spec.label for spec in self.specs}

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
        if dataset not in self.profile.datasets:
            return dataset.replace("_", " ")
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
            InputError: The profile does not keep this dataset's features.
        """
        return self.outputs.features(dataset)

    def card(self, model: str) -> Card | None:
        """What is known of a network without loading it (parameters, preprocessing); None for an imported model."""
        return self.outputs.card(self.spec(model))

    # Results ------------------------------------------------------------------------------------------------------

    def record(self, *frames: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
        """Add tidy rows to this page's results, and return them together.

        Args:
            *frames: Rows with `metric, model, value, ci_low, ci_high, n, unit`, and `dataset` unless it is given.
            dataset: The dataset of all rows.
        """
        frames = [frame.assign(dataset=dataset) if dataset else frame for frame in frames]
        rows = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
        columns = [*results.RESULT_COLUMNS]
        self._results.append(results.validate_results(rows.assign(dimension=self.dimension)[columns]))
        results.write_dimension(self.report_folder, self.dimension, pd.concat(self._results, ignore_index=True))
        return rows

    def recorded(self, *dimensions: str) -> pd.DataFrame:
        """Results that other pages of this run have written; none where they have not run."""
        paths = [self.report_folder / "results" / f"{name}.csv" for name in dimensions]
        found = [results.read_results(path) for path in paths if path.is_file()]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=results.RESULT_COLUMNS)

    def compare(self, rows: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
        """Record all differences between models that this page asks about, and decide them.

        Called once, with every row: the p-values of a family are corrected together.

        Args:
            rows: Of `tidy.pairs`; `family` is `main` (default) or `detail`.
            dataset: Its dataset, where the rows have no such column.

        Returns:
            The rows with `p_holm` and `verdict` (`verdicts.judge`).

        Raises:
            InputError: A second call, a missing column, or a question asked twice.
        """
        if self._compared:
            raise InputError(f"page {self.dimension}: its comparisons are recorded once, all together")
        given = {"dataset": dataset} if dataset else {}
        defaults = {"dimension": self.dimension, "family": MAIN, "p_floor": 0.0}
        rows = rows.assign(**given, **{name: value for name, value in defaults.items() if name not in rows})
        if missing := set(COMPARISON_COLUMNS) - set(rows.columns) - {"p_holm", "verdict"}:
            raise InputError(f"comparisons: missing columns {', '.join(sorted(missing))}")
        if (twice := rows.duplicated(["dataset", "metric", "model_a", "model_b"])).any():
            raise InputError(f"comparisons: asked twice: {rows[twice].iloc[0][['dataset', 'metric']].tolist()}")
        rows = verdicts.judge(rows.reset_index(drop=True).fillna({"family": MAIN, "p_floor": 0.0}), self.noise)
        self._compared.append(self.dimension)
        text = results.csv_text(rows[list(COMPARISON_COLUMNS)])
        results.write_atomically(self.report_folder / "comparisons" / f"{self.dimension}.csv", text.encode())
        return rows

    @cached_property
    def noise(self) -> pd.DataFrame | None:
        """Noise of training of this page's metrics (`verdicts.NOISE`), where replicate runs of its models are known."""
        if not self.profile.replicates:
            return None
        own = [spec.name for spec in self.specs if spec.id.endswith(f"mini_world/models/{spec.name}")]
        return replicates.noise(resolve(self.profile.replicates), self.dimension, own)

    # Showing ------------------------------------------------------------------------------------------------------

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame for readers: datasets, models and factors by their names, where columns hold them."""
        shown = frame.copy()
        if "factor" in shown:
            shown["factor"] = shown["factor"].str.replace("_", " ")
        for column in [c for c in ("dataset", "set") if c in shown]:
            shown[column] = shown[column].map(self.title)
        for column in [c for c in ("model", "model_a", "model_b") if c in shown]:
            shown[column] = shown[column].map(lambda name: self.labels.get(name, name))
        return shown

    def figure(self, drawn, name: str, caption: str, data: pd.DataFrame) -> None:
        """Save a figure as SVG, PNG and CSV under `figures/<profile>/<dimension>/` and show it.

        Args:
            drawn: A figure and its words for whoever cannot see it, as the functions of `figures` return them.
            name: Stem of the files.
            caption: What to read from it.
            data: The numbers drawn.
        """
        import matplotlib.pyplot as plt

        fig, alt = drawn
        folder = figures_dir(self.profile.name) / self.dimension
        record = results.save_figure(fig, folder, _file_name(name), alt, caption, data)
        plt.close(fig)
        results.display_figure(record)

    def gallery(
        self, images: Sequence[Image.Image], captions: Iterable[str], name: str, caption: str, data, **options
    ) -> None:
        """Show pictures, if there are any, each with its caption; options as `pictures.gallery`."""
        if len(images):
            words = [str(text) for text in captions]
            alt = f"{caption} Pictures: {', '.join(words)}".replace("\n", " ")
            self.figure((pictures.gallery(images, words, **options), alt), name, caption, data)

    def draw(self, kind: Callable, rows: pd.DataFrame, name: str, caption: str, per: str = "", **options) -> None:
        """Draw tidy rows with a function of `figures` in this report's looks, and keep the figure.

        The paper's values join as black ticks where the function takes `paper` and this profile has the paper's models.

        Args:
            kind: `figures.dots`, `figures.lines`, … or a page's own: a function of a frame and `styles`.
            rows: Rows; none draws nothing.
            name: Stem of the files.
            caption: What to read from it; `{title}` is the dataset with `per`.
            per: `dataset` for a figure of every dataset, its name behind the stem.
            **options: Of the function; `styles` where the marks are no models of this report.
        """
        if not len(rows):
            return
        if per:
            for key, part in rows.groupby(per, sort=False):
                self.draw(kind, part, f"{name}-{key}", caption.replace("{title}", self.title(key)), **options)
            return
        shown = rows.assign(dataset=rows["dataset"].map(self.title)) if "dataset" in rows else rows
        if options.get("paper") is True:
            theirs = self.paper_values(rows)
            options["paper"] = theirs.assign(dataset=theirs["dataset"].map(self.title))
            caption += " Black ticks: the paper." if len(theirs) else ""
        self.figure(kind(shown, **({"styles": self.styles} | options)), name, caption, rows)

    def table(self, frame: pd.DataFrame, name: str, caption: str, **options) -> None:
        """Save a frame as CSV beside the figures and show it; options as `tables.table_html`. No rows: nothing."""
        if not len(frame):
            return
        name, shown = _file_name(name), self.named(frame)
        path = figures_dir(self.profile.name) / self.dimension / f"table-{name}.csv"
        results.write_atomically(path, results.csv_text(shown, index=bool(options.get("index"))).encode())
        tables.display_table(shown, caption, name=name, **options)

    def values(
        self, rows: pd.DataFrame, name: str, caption: str, down: Sequence[str] | str = "model", across: str = "metric",
        only: Sequence[str] = (), per: str = "", **options,
    ) -> None:  # fmt: skip
        """A table of tidy rows: one row per value of `down`, one column with its interval per value of `across`.

        Headings and formats are those of `metrics.yaml`; n stands in the last column where it differs between rows, the
        caption may use `{n}`.

        Args:
            rows: Tidy rows.
            name: Stem of the files.
            caption: What the table holds.
            down: Column or columns that become the rows.
            across: Column that becomes the columns.
            only: Values of `across`, in order.
            per: `dataset` for a table of every dataset, its name behind the stem and as `{title}` in the caption.
            **options: As `tables.table_html`.
        """
        if per:
            for key, part in rows.groupby(per, sort=False):
                words = caption.replace("{title}", self.title(key))
                self.values(part, f"{name}-{key}", words, down, across, only, **options)
            return
        rows = rows[rows[across].isin(only)] if len(only) else rows
        if not len(rows):
            return
        wide = tidy.pivot(rows, down, across, only)
        index = [down] if isinstance(down, str) else list(down)
        sizes = rows.groupby(index, sort=False)["n"].max()
        if sizes.nunique() > 1:
            wide = wide.join(sizes, on=index)
        if across == "model":
            ends = {f"{m}{end}": f"{label}{end}" for m, label in self.labels.items() for end in ("", "_low", "_high")}
            wide = wide.rename(columns=ends)
            formats = dict.fromkeys(self.labels.values(), metrics.about(rows["metric"].iloc[0])["format"])
            options["formats"] = formats | options.get("formats", {})
        elif across == "metric":
            for option, usual in metrics.headed(dict.fromkeys(rows["metric"])).items():
                options[option] = usual | options.get(option, {})
        self.table(wide, name, caption.format(n=f"{int(sizes.max()):,}"), **options)

    def differences(
        self, judged: pd.DataFrame, name: str, caption: str, also: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """The table of comparisons: what, first minus second model, interval, corrected p, verdict.

        Args:
            judged: Rows that `compare` returned.
            name: Stem of the files.
            caption: What they are differences of.
            also: Further columns in front.
            only: Metrics shown; all by default.
        """
        shown = judged[judged["metric"].isin(only)] if len(only) else judged
        shown = shown[shown["model_b"] != ""]
        if not len(shown):
            return
        floor = shown["p_holm"].where(shown["p"] <= shown["p_floor"] * (1 + 1e-9))
        shown = shown.rename(columns={"ci_low": "difference_low", "ci_high": "difference_high"})
        varied = [c for c in ("dataset", "metric") if shown[c].nunique() > 1 and c not in also]
        columns = [*also, *varied, "model_a", "model_b", "difference", "difference_low", "difference_high"]
        columns += ["n", "p_holm", "verdict"]
        spec = metrics.about(shown["metric"].iloc[0])["format"].lstrip("+")
        formats = {"difference": f"+{spec}", "p_holm": ".3f"}
        self.table(shown[columns].assign(p_holm_floor=floor), name, caption, formats=formats)

    def paper_values(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The paper's values beside tidy rows: the same rows with the paper's `value`, where it has one."""
        keys = rows[["dataset", "metric"]].drop_duplicates()
        theirs = [self.paper(d, m).assign(dataset=d, metric=m) for d, m in keys.itertuples(index=False)]
        found = pd.concat([f[["dataset", "metric", "model", "value"]] for f in theirs]) if theirs else pd.DataFrame()
        ours = rows.drop(columns=["value", "ci_low", "ci_high"])
        return ours.merge(found, on=["dataset", "metric", "model"]) if len(found) else ours.iloc[:0].assign(value=[])

    def beside_paper(self, rows: pd.DataFrame, name: str, also: Sequence[str] = ("dataset",)) -> None:
        """A table of tidy rows beside the paper's values, where it has any.

        Args:
            rows: Tidy rows.
            name: Stem of the files.
            also: Columns that say which row it is, beside the model.
        """
        theirs = self.paper_values(rows)
        both = rows.merge(theirs[["dataset", "metric", "model", "value"]].rename(columns={"value": "paper"}))
        if len(both):
            both["minus paper"] = both["value"] - both["paper"]
            columns = [*also, "model", "value", "ci_low", "ci_high", "n", "paper", "minus paper"]
            spec = metrics.about(both["metric"].iloc[0])["format"]
            formats = {"value": spec, "paper": spec, "minus paper": f"+{spec.lstrip('+')}"}
            self.table(both[columns], name, "This run beside the paper's values.", formats=formats)

    def leader(self, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
        """Who leads in one metric on one set, in words: a superlative only where the runner-up is told apart.

        Args:
            rows: Tidy rows of one metric on one set.
            judged: What `compare` returned.
        """
        about, key = metrics.about(rows["metric"].iloc[0]), ["dataset", "metric"]
        mine = judged.merge(rows[key].drop_duplicates(), on=key)
        values = rows.set_index("model")["value"]
        best = verdicts.leaders(values, mine, about.get("better", "up"))
        spoken = [f"{self.labels[m]} ({values[m]:{about['format']}})" for m in best]
        if len(values) == 1:
            return spoken[0]
        return f"{spoken[0]} leads" if len(spoken) == 1 else f"{verdicts.joined(spoken)} tie"

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
        values = published.paper_values(self.dimension, dataset, metric)
        known = [] if self.profile.synthetic else [s.name for s in self.specs if published.is_checkpoint(s)]
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
        if not rows:
            print("This page reads no predictions.")
            return
        frame = pd.DataFrame(rows)
        for name in ("images left out", "changed"):
            if not frame[name].any():
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


def _file_name(name: str) -> str:
    """A name that holds a dataset's or model's own, which may be in any script, as one for files and links."""
    name = name.replace("_", "-")
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")


def open_page(profile: str, dimension: str, models: str = "", seed: int = 0, resamples: int = 2000, **options) -> Page:
    """Open one page of a profile.

    Args:
        profile: Name of a shipped profile or path of a YAML file.
        dimension: The page (`calibration`, `mistakes`, …).
        models: Comma-separated subset; names outside the profile are taken as imported predictions.
        seed: Of the page's resampling.
        resamples: Bootstrap resamples behind an interval.
        **options: `device`, `batch_size`, `skip_bad`, `progress`.

    Raises:
        InputError: Unknown profile, or a profile without this dimension.
    """
    from beyond_accuracy.show import theme  # noqa: F401  # the engine: outputs can be computed by it

    loaded = load_profile(profile)
    if dimension not in loaded.dimensions:
        raise InputError(f"profile {loaded.name}: {unknown('dimension', dimension, loaded.dimensions)}")
    theme.use_theme()
    return Page(loaded.select(models), dimension, Store(), options, seed, resamples)


def classify(study: Page, dataset: str, image: Image.Image, top: int = 3) -> pd.DataFrame:
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

    from beyond_accuracy.inference import run as inference
    from beyond_accuracy.models.load import model_for

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
