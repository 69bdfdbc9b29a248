"""What a notebook talks to: one page of one profile, with its models, data, results, figures and provenance."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.paths import figures_dir, own_run_dir, report_dir, resolve
from beyond_accuracy.base.profile import ModelSpec, Profile, check_injected, load_profile, unknown
from beyond_accuracy.data import published
from beyond_accuracy.data.classes import ClassSpace
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.inference.outputs import Features, Outputs
from beyond_accuracy.inference.predictions import Predictions
from beyond_accuracy.inference.store import Store
from beyond_accuracy.measure import tidy, verdicts
from beyond_accuracy.models.card import Card
from beyond_accuracy.show import figures, results, tables, theme


class Page:
    """One page of one run. Get it with `open_page`."""

    def __init__(
        self, profile: Profile, dimension: str, store: Store, options: dict | None = None, seed: int = 0,
        resamples: int = 2000,
    ):  # fmt: skip
        self.profile, self.settings, self.dimension, self.store = profile, profile.settings, dimension, store
        self.seed, self.resamples = seed, resamples
        self.models, self.specs = list(profile.models), list(profile.models.values())
        self.styles, self.labels = theme.styles(self.specs), {spec.name: spec.label for spec in self.specs}
        self.has_networks = any(spec.source != "predictions" for spec in self.specs)  # not all are imported predictions
        self.roles: dict = profile.dimensions.get(dimension, {})
        self.outputs = Outputs(profile, store, options)
        self.report_folder, self._own = report_dir(profile.name), own_run_dir(profile.name)
        self._told: list[Path] = []  # a list, as views of the page share it
        self.skipped: list[str] = []  # why datasets were left out, one message each
        self._results: list[pd.DataFrame] = []
        self._compared: list[str] = []  # a list, as views of the page share it
        self._findings: list[str] = []

    def __repr__(self) -> str:
        return f"<{self.dimension} of {self.profile.name}: models {', '.join(self.models)}; roles {self.roles}>"

    def under(self, *, limit: int = 0, **settings) -> "Page":
        """This page under other conventions (`precision="bf16"`), of at most `limit` evenly spaced images a set."""
        view = copy.copy(self)
        view.outputs = self.outputs.under(settings, limit)
        view.profile, view.settings = view.outputs.profile, view.outputs.profile.settings
        return view

    # Models and roles ---------------------------------------------------------------------------------------------

    def spec(self, model: str) -> ModelSpec:
        """A model's entry in the profile."""
        if model not in self.profile.models:
            raise InputError(unknown("model", model, self.profile.models))
        return self.profile.models[model]

    def has_role(self, role: str) -> bool:
        """Whether this profile gives the role a dataset (or value) on this page."""
        return role in self.roles

    def role(self, role: str):
        """What plays a role on this page: a dataset name, a list of them, or an option's value."""
        if role not in self.roles:
            has = ", ".join(self.roles) or "nothing"
            raise InputError(f"profile {self.profile.name}: dimensions.{self.dimension} has no {role!r} (it has {has})")
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

    def metadata(self, dataset: str, *needed: str) -> pd.DataFrame:
        """Per-image metadata, index `id`; select rows with `.loc[predictions.ids]`. It must have the columns needed."""
        frame = self.dataset(self.outputs.base(dataset)).metadata
        if missing := [name for name in needed if name not in frame]:
            has = f"it has {', '.join(map(str, frame)) or 'none'}; give this part of the page another dataset"
            raise InputError(f"dimensions.{self.dimension}: {dataset} has no {missing[0]!r} in its metadata: {has}")
        return frame

    def image(self, dataset: str, image_id: str) -> Image.Image:
        """One image, RGB."""
        data = self.dataset(self.outputs.base(dataset))
        return data.image(data.position(image_id))

    def class_names(self, dataset: str) -> tuple[str, ...]:
        """Name of every class index of the dataset's class space."""
        return self.classes(dataset).names

    def classes(self, dataset: str) -> ClassSpace:
        """The dataset's class space."""
        classes = self.dataset(self.outputs.base(dataset)).classes
        if classes is None:
            raise InputError(f"{dataset}: has no class space")
        return classes

    def available(self, datasets: Iterable[str]) -> list[str]:
        """Those datasets whose data is here and whole; the others are listed on the page as left out."""
        found = []
        for name in datasets:
            try:
                self.dataset(self.outputs.base(name))
                found.append(name)
            except (DataMissing, InputError) as error:  # a report of bad input says so in its exit code
                self.skipped.append(str(error))
        return found

    def predictions(self, dataset: str, transform: str = "none") -> dict[str, Predictions]:
        """Predictions of every model, imported ones that cover the dataset included; runs what the store lacks.

        DataMissing where that cannot be.
        """
        return self.predictions_many(dataset, [transform])[transform]

    def predictions_many(self, dataset: str, transforms: list[str]) -> dict[str, dict[str, Predictions]]:
        """Predictions by transform text, each image decoded once for all; what one model lacks, all do."""
        return self.outputs.predictions(dataset, transforms)

    def features(self, dataset: str) -> dict[str, Features]:
        """Features of every network; runs what the store lacks. Imported models have none."""
        return self.outputs.features(dataset)

    def card(self, model: str) -> Card | None:
        """What is known of a network without loading it (parameters, preprocessing); None for an imported model."""
        return self.outputs.card(self.spec(model))

    # Results ------------------------------------------------------------------------------------------------------

    def record(self, *frames: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
        """Add tidy rows (`tidy.COLUMNS`, and `dataset` unless it is given) to this page's results; all of them."""
        frames = [frame.assign(dataset=dataset) if dataset else frame for frame in frames]
        rows = pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)
        rows = rows.reindex(columns=list(dict.fromkeys(name for frame in frames for name in frame)))
        own = rows.assign(dimension=self.dimension)[[*results.RESULT_COLUMNS]]
        self._results.append(results.validate_results(own))
        results.write_dimension(self.records, self.dimension, pd.concat(self._results, ignore_index=True))
        return rows

    def recorded(self, *dimensions: str) -> pd.DataFrame:
        """Results that other pages of this run have written; none where they have not run."""
        return results.read_results(self.report_folder, dimensions)

    def compare(self, *frames: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
        """Record all differences between models that this page asks about (`tidy.pairs`); the rows with verdicts.

        Called once: the p-values of a `family` (`main` by default, see `verdicts`) are corrected together.
        """
        if self._compared:
            raise InputError(f"page {self.dimension}: its comparisons are recorded once, all together")
        usual, rows = {"family": "main", "p_floor": 0.0}, pd.concat(frames, ignore_index=True)
        given = {"dataset": dataset} if dataset else {}
        given |= {name: value for name, value in usual.items() if name not in rows}
        rows = rows.assign(dimension=self.dimension, **given).fillna(usual)
        plain = (rows["metric"] == "accuracy") & (rows["dataset"] == self.roles.get("clean"))
        rows["family"] = rows["family"].mask(plain, "clean")  # several pages ask it, and all have the same answer
        if missing := set(results.COMPARISON_COLUMNS) - set(rows.columns) - {"p_holm", "verdict"}:
            raise InputError(f"comparisons: missing columns {', '.join(sorted(missing))}")
        # a frame without rows makes its columns ones of objects
        rows = rows.astype(dict.fromkeys(("difference", "ci_low", "ci_high", "p"), float))
        if (twice := rows.duplicated(["dataset", "metric", "model_a", "model_b"])).any():
            raise InputError(f"comparisons: asked twice: {rows[twice].iloc[0][['dataset', 'metric']].tolist()}")
        rows = verdicts.judge(self._as_recorded(rows), self.noise)
        self._compared.append(self.dimension)
        text = results.csv_text(rows[[*results.COMPARISON_COLUMNS]])
        results.write_atomically(self.records / "comparisons" / f"{self.dimension}.csv", text.encode())
        return rows

    def _as_recorded(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One interval for one number: what is compared with zero has that of its recorded row, if it is the same."""
        if not self._results:
            return rows
        key, ends = ["dataset", "metric", "model_a"], ["ci_low", "ci_high"]
        known = pd.concat(self._results).rename(columns={"model": "model_a"}).drop_duplicates(key)
        known = rows[key].merge(known[[*key, "value", *ends]], how="left").set_index(rows.index)
        same = (rows["model_b"] == "") & np.isclose(known["value"], rows["difference"]) & known["ci_low"].notna()
        return rows.assign(**{end: rows[end].mask(same, known[end]) for end in ends})

    @cached_property
    def noise(self) -> pd.DataFrame | None:
        """Noise of training of this page's metrics (`verdicts.NOISE`), where replicate runs of its models are known.

        They were measured on the roles of `mini`: an average over other sets, tasks or transforms has another noise.
        """
        if not self.profile.replicates or self.roles != load_profile("mini").dimensions.get(self.dimension):
            return None
        own = [spec.name for spec in self.specs if spec.id.endswith(f"mini_world/models/{spec.name}")]
        return verdicts.training_noise(resolve(self.profile.replicates), self.dimension, own)

    # Showing ------------------------------------------------------------------------------------------------------

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame for readers: datasets, models and factors by their names, where columns hold them."""
        names = dict.fromkeys(("dataset", "set"), self.title) | {"factor": lambda name: name.replace("_", " ")}
        names |= dict.fromkeys(("model", "model_a", "model_b"), lambda name: self.labels.get(name, name))
        return frame.assign(**{c: frame[c].map(name, na_action="ignore") for c, name in names.items() if c in frame})

    def figure(self, drawn, name: str, caption: str, data: pd.DataFrame) -> None:
        """Save a figure and its words as SVG, PNG and CSV (`data`) in `figures/<profile>/<dimension>/`, and show it."""
        fig, alt = drawn
        markup = results.save_figure(fig, self._folder, _file_name(name), alt, caption, data)
        figures.plt.close(fig)
        results.display_html(markup, alt)

    def gallery(self, images: Sequence, captions: Iterable[str], name: str, caption: str, data, **options) -> None:
        """Show pictures, if there are any, each with its caption; options as `figures.gallery`."""
        if len(images):
            words = [str(text) for text in captions]
            alt = f"{caption} Pictures: {', '.join(words)}".replace("\n", " ")
            self.figure((figures.gallery(images, words, **options), alt), name, caption, data)

    def draw(self, kind: Callable, rows: pd.DataFrame, name: str, caption: str, per: str = "", **options) -> None:
        """Draw tidy rows in this report's looks, and keep the figure.

        `kind` is a function of `figures`, or a page's own of a frame and `styles`; `per="dataset"` draws every dataset,
        `{title}` in its caption; `paper=True` adds the paper's values of its own models as black ticks.
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
        text = results.csv_text(shown.drop(columns="format", errors="ignore"), index=bool(options.get("index")))
        results.write_atomically(self._folder / f"table-{name}.csv", text.encode())
        tables.display_table(shown, caption, name=name, **options)

    def values(
        self, rows: pd.DataFrame, name: str, caption: str, down: Sequence[str] | str = "model", across: str = "metric",
        only: Sequence[str] = (), per: str = "", **options,
    ) -> None:  # fmt: skip
        """A table of tidy rows: one row per value of `down`, one column with its interval per value of `across`.

        `only` picks and orders values of `across`. n is the last column where it differs between rows, and `{n}` in the
        caption. `per="dataset"`: a table of every dataset, as in `draw`. Options as `tables.table_html`.
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
            formats = dict.fromkeys(self.labels.values(), tables.about(rows["metric"].iloc[0])["format"])
            options["formats"] = formats | options.get("formats", {})
        elif across == "metric":
            for option, usual in tables.headed(dict.fromkeys(rows["metric"])).items():
                options[option] = usual | options.get(option, {})
        self.table(wide, name, caption.format(n=f"{int(sizes.max()):,}"), **options)

    def differences(
        self, judged: pd.DataFrame, name: str, caption: str, also: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """The table of what `compare` returned, with columns `also` in front; `only`: of some metrics."""
        shown = judged[judged["metric"].isin(only)] if len(only) else judged
        shown = shown[shown["model_b"] != ""]
        if not len(shown):
            return
        floor = shown["p_holm"].where(verdicts.is_bound(shown))
        spec = tables.about(shown["metric"].iloc[0])["format"].lstrip("+")
        shown = shown.rename(columns={"ci_low": "difference_low", "ci_high": "difference_high"})
        shown["metric"] = shown["metric"].map(tables.plain)
        varied = [c for c in ("dataset", "metric") if shown[c].nunique() > 1 and c not in also]
        columns = [*also, *varied, "model_a", "model_b", "difference", "difference_low", "difference_high"]
        columns += ["n", "p_holm", "verdict"]
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
        """A table of tidy rows, told apart by the model and `also`, beside the paper's values, where it has any."""
        theirs = self.paper_values(rows)
        both = rows.merge(theirs[["dataset", "metric", "model", "value"]].rename(columns={"value": "paper"}))
        if len(both):
            both["minus paper"] = both["value"] - both["paper"]
            columns = [*also, "model", "value", "ci_low", "ci_high", "n", "paper", "minus paper"]
            spec = tables.about(both["metric"].iloc[0])["format"]
            formats = {"value": spec, "paper": spec, "minus paper": f"+{spec.lstrip('+')}"}
            self.table(both[columns], name, "This run beside the paper's values.", formats=formats)

    def leader(self, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
        """Who leads in rows of one metric on one set: a superlative only where `compare` told the runner-up apart.

        A lead over anyone that another training run may turn says so, where the noise of training is known.
        """
        about, key = tables.about(rows["metric"].iloc[0]), ["dataset", "metric"]
        mine = judged.merge(rows[key].drop_duplicates(), on=key)
        values = rows.set_index("model")["value"]
        best = verdicts.leaders(values, mine, about.get("better", "up"))
        spoken = [f"{self.labels[m]} ({values[m]:{about['format']}})" for m in best]
        if len(values) == 1:
            return spoken[0]
        if len(spoken) > 1:
            return f"{verdicts.joined(spoken)} tie"
        over = mine[(mine[["model_a", "model_b"]] == best[0]).any(axis=1) & (mine["verdict"] == verdicts.THESE)]
        return f"{spoken[0]} leads" + ", not beyond training noise" * bool(over["replicated"].any())

    def claim(self, start: str, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
        """A title from `leader`; none where nothing was measured."""
        return f"{start} {self.leader(rows, judged)}" if len(rows) else ""

    def finding(self, sentence: str, claim: str = "") -> None:
        """Show one computed sentence, and keep it for the front page; a `claim` says it in few words: the title."""
        if claim:
            results.display_html(f'<p class="ba-claim mathjax_ignore">{results.code_spans(claim)}</p>', claim)
        self._findings.append(sentence)
        text = json.dumps(self._findings, indent=1, ensure_ascii=False)
        results.write_atomically(self.records / "findings" / f"{self.dimension}.json", text.encode())
        # Model and class names come from files: as Markdown their links, pictures and formulas would be live.
        results.display_html(f'<p class="ba-finding mathjax_ignore">{results.code_spans(sentence)}</p>', sentence)

    def paper(self, dataset: str, metric: str) -> pd.DataFrame:
        """The paper's values of a metric, for its own checkpoints alone; none in a profile marked `synthetic`."""
        values = published.paper_values(self.dimension, dataset, metric)
        known = [] if self.profile.synthetic else [s.name for s in self.specs if published.is_checkpoint(s)]
        return values[values["model"].isin(known)]

    def rng(self, stream: int = 0) -> np.random.Generator:
        """A generator from the profile's seed; `stream` separates independent uses on one page."""
        return np.random.default_rng([self.settings.seed, stream])

    def provenance(self) -> None:
        """Show what made the page's numbers, and which models have none or odd ones; every notebook's last cell."""
        for line in self.outputs.left_out:
            print(line)
        made = pd.DataFrame(map(_described, self.outputs.used.values()))
        if not len(made):
            print("This page reads no predictions.")
            return
        made.insert(4, "runs", made.groupby(["model", "dataset", "changed"])["model"].transform("size"))
        frame = made.drop_duplicates(["model", "dataset", "changed"]).sort_values(["model", "dataset"], kind="stable")
        frame = frame.drop(columns=[name for name in ("images left out", "changed") if not frame[name].any()])
        tables.display_table(frame, "What made these numbers", name=f"provenance-{self.dimension.replace('_', '-')}")

    @property
    def records(self) -> Path:
        """Where this page writes: only `report` writes the report, a notebook run by itself has a folder of its own."""
        if self._own and not self._told:
            self._told.append(self._own)
            print(f"Run by itself, not by `report`: results and figures go to {self._own}, the report stays as it is.")
        return self._own or self.report_folder

    @property
    def _folder(self) -> Path:
        return (self.records / "figures" if self._own else figures_dir(self.profile.name)) / self.dimension


def _file_name(name: str) -> str:
    """A name that holds a dataset's or model's own, which may be in any script, as one for files and links."""
    name = name.replace("_", "-")
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".strip("-")


def open_page(profile: str, dimension: str, models: str = "", seed: int = 0, resamples: int = 2000, **options) -> Page:
    """Open one page of a profile: the name of a shipped one, or a YAML file.

    `models` is a comma-separated subset; names outside the profile are taken as imported predictions. `seed` and
    `resamples` are of the page's intervals; options: `device`, `batch_size`, `skip_bad`, `progress`.
    """
    check_injected()
    loaded = load_profile(profile)
    if dimension not in loaded.dimensions:
        raise InputError(f"profile {loaded.name}: {unknown('dimension', dimension, loaded.dimensions)}")
    theme.use_theme()
    return Page(loaded.select(models).on(dimension), dimension, Store(), options, seed, resamples)


def classify(page: Page, dataset: str, image: Image.Image, top: int = 3) -> pd.DataFrame:
    """What networks say of an RGB image, of the classes of `dataset`: `model, label, probability`, best first."""
    import torch

    from beyond_accuracy.inference import run as inference
    from beyond_accuracy.models.load import model_for

    classes = page.classes(dataset).prompted(page.settings.prompts)
    device, rows = inference.pick_device(page.outputs.device), []
    for name, card in [(name, card) for name in page.models if (card := page.card(name)) is not None]:
        model = model_for(card, page.settings, page.profile.imports).to(device).at_size(card.geometry.crop)
        head = inference.text_head(model, classes, device, page.store)
        pixels = torch.from_numpy(np.array(model.geometry.apply(image))).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            logits = model.outputs(model.normalize(pixels), head)["logits"]
        probabilities, best = logits.float().softmax(-1)[0].topk(min(top, len(classes)))
        rows += [(name, classes.names[k], float(p)) for k, p in zip(best.tolist(), probabilities, strict=True)]
    return pd.DataFrame(rows, columns=["model", "label", "probability"])


def _described(meta: dict) -> dict[str, object]:
    """What made one entry of the store, for readers."""
    key = meta.get("key_parts", {})
    weights = {"weights": meta.get("model_id") or "imported"}
    weights["weights hash"] = str(key.get("weights") or meta.get("file_hash", ""))
    how = {"preprocessing": key.get("geometry", "as imported"), "precision": key.get("precision", "")}
    how |= {"changed": meta.get("convention", ""), "logit scale": key.get("logit_scale")}
    where = {"device": meta.get("device", ""), "images left out": len(meta.get("skipped", []))}
    return {"model": meta.get("model", "")} | weights | {"dataset": meta.get("dataset", "")} | how | where
