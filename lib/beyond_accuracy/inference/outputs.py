"""Outputs of every model of a profile on a dataset: from the store, and by running what the store lacks."""

import copy
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import content_hash
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec, ModelSpec, Profile, load_profile, unknown
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.published import real_labels
from beyond_accuracy.data.readers import load_dataset
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference import heads
from beyond_accuracy.inference import jobs as jobs_
from beyond_accuracy.inference.imports import import_predictions, joined, outdated
from beyond_accuracy.inference.predictions import Predictions, judge
from beyond_accuracy.inference.store import Entry, Store
from beyond_accuracy.models.card import Card
from beyond_accuracy.models.load import read_card


@dataclass(frozen=True)
class Features:
    """What one model extracted from every image of one dataset."""

    model: str
    dataset: str
    ids: np.ndarray  # image ids (n,)
    targets: np.ndarray | list[np.ndarray]  # int64 labels (n,), or a list for multi-label sets
    # float32 (n, width), memory-mapped, by layer: `pre_logits` for timm; `trunk` and `projected` (before and after the
    # projection into the shared space, not normalised) for CLIP
    layers: dict[str, np.ndarray]
    meta: dict  # what made them


# Engines besides this process, by name: functions like `inference.run`. `engine_ray` puts itself here.
RUN_BY: dict[str, Callable] = {}
ASKED: set[str] = set()  # entries whose refusals are of this process, or hold for good


class Outputs:
    """Reads and fills the store for the models of one profile."""

    def __init__(self, profile: Profile, store: Store, options: dict | None = None, run: bool = True):
        """`options`: those of `jobs.Options` asked for; without `run`, what the store lacks is missing data."""
        self.profile, self.store, self.run = profile, store, run
        self.options = replace(jobs_.Options.given(**(options or {})), imports=profile.imports)
        self.used: dict[str, dict] = {}  # description of every store entry asked for so far, by key
        self.left_out: dict[str, None] = {}  # what models have no outputs for, or odd ones, and why: lines
        self.convention = ""  # what was changed of the profile's conventions; empty = nothing

    def under(self, settings: dict, limit: int = 0) -> "Outputs":
        """The same store under other conventions (`Profile.under`); what it reads counts as read here, too."""
        changed = copy.copy(self)
        changed.profile = self.profile.under(settings, limit)
        texts = [self.convention, *(f"{name}={value}" for name, value in settings.items())]
        changed.convention = ", ".join(filter(None, texts))
        return changed

    @property
    def device(self) -> str:
        """The device asked for."""
        return self.options.device

    def dataset_spec(self, name: str) -> DatasetSpec:
        """A dataset's entry in the profile."""
        if name not in self.profile.datasets:
            raise InputError(f"profile {self.profile.name}: {unknown('dataset', name, self.profile.datasets)}")
        return self.profile.datasets[name]

    def data(self, name: str) -> ImageDataset:
        """A dataset of the profile."""
        return load_dataset(self.dataset_spec(name))

    def base(self, name: str) -> str:
        """The dataset whose images a re-labelled set (ReaL) shares."""
        spec = self.dataset_spec(name)
        return str(spec.options.get("of", "imagenet_1k")) if spec.reader == "imagenet_real" else name

    def card(self, spec: ModelSpec) -> Card | None:
        """What is known of a network without loading it; None for an imported model."""
        if spec.source == "predictions":
            return None
        return read_card(spec, self.profile.settings, self.profile.imports, self.store.root)

    def predictions(self, dataset: str, transforms: list[str]) -> dict[str, dict[str, Predictions]]:
        """Predictions by transform text as given, and by model; see `Page.predictions_many`."""
        spec = self.dataset_spec(dataset)
        if spec.reader == "imagenet_real":
            base = self.predictions(self.base(dataset), transforms)
            labels = real_labels()
            judged = {t: {m: p.relabel(dataset, labels) for m, p in by_model.items()} for t, by_model in base.items()}
            if any(len(kept) == 0 for by_model in judged.values() for kept in by_model.values()):
                raise InputError(
                    f"{dataset}: no image of {self.base(dataset)} has an ILSVRC validation id, so no ReaL label "
                    "applies; use a form of the set that keeps the original file names"
                )
            return judged
        data = load_dataset(spec)
        found = {}
        for text, by_model in self._entries(data, transforms).items():
            read = {name: self._read(entry, name, data, text) for name, entry in by_model.items()}
            if not read and self.left_out and parse(text).is_identity:
                raise InputError(next(iter(self.left_out)))
            found[text] = _on_same_images(read)
        return found

    def features(self, dataset: str) -> dict[str, Features]:
        """Features of every network; see `Page.features`."""
        data = self.data(dataset)
        if data.keep != "all":
            raise InputError(
                f"{dataset}: the profile does not keep its features (datasets.{dataset}.keep is {data.keep}, not all)"
            )
        found = {}
        networks = [spec for spec in self.profile.models.values() if spec.source != "predictions"]
        entries = self.extracted(networks, data, ["none"])
        if self.left_out and not entries:
            raise InputError(next(iter(self.left_out)))
        for (_, name), entry in entries.items():
            self._use(entry, data)
            frame = self.rows(entry, data)
            layers = {layer: entry.array(f"features-{layer}") for layer in entry.layers()}
            targets = frame["target"].to_numpy() if frame["target"].dtype != object else list(frame["target"])
            found[name] = Features(name, dataset, frame["id"].to_numpy(), targets, layers, entry.meta)
        return found

    def fill(self, dataset: str, transforms: list[str], networks_only: bool = False) -> None:
        """Run what the store lacks without reading it: what a report does before its first notebook."""
        self._entries(self.data(self.base(dataset)), transforms, networks_only)

    def _entries(
        self, data: ImageDataset, transforms: list[str], networks_only: bool = False
    ) -> dict[str, dict[str, Entry]]:
        """Store entries by transform and model, complete; a model may have none.

        An imported model may not cover the set; a network may not take an input side, or know no such classes.
        """
        specs = self.profile.models.values()
        networks = [spec for spec in specs if spec.source != "predictions"]
        imported = [spec.name for spec in specs if spec.source == "predictions" and not networks_only]
        for spec in [spec for spec in specs if spec.name in imported and spec.checkpoint]:
            # predictions that the profile names as files, where they are new or the set is another by now
            file = resolve(spec.checkpoint.replace("{dataset}", data.name))
            known = self.store.imported(spec.name, data.name)
            if file.is_file() and (known.meta.get("file_hash") != content_hash(file)[:24] or outdated(known, data)):
                import_predictions(file, spec.name, data, self.store)
        if not networks_only:
            self._check_imported(imported, data.name, bool(networks))
        for spec in networks:
            if self.store.imported(spec.name, data.name).complete:
                print(f"{data.name}: predictions imported as {spec.name} are not used: that is a network of profile "
                      f"{self.profile.name}; import them under another name", file=sys.stderr)  # fmt: skip
        direct = [spec for spec in networks if spec.head not in heads.KINDS]
        fitted = [spec for spec in networks if spec not in direct]
        computed = self._run(direct, data, transforms, networks_only) | heads.answered(self, fitted, data, transforms)
        entries: dict[str, dict[str, Entry]] = {text: {} for text in transforms}
        for text, name in itertools.product(transforms, self.profile.models):
            entry = computed.get((text, name))
            if name in imported and parse(text).is_identity:
                entry = self.store.imported(name, data.name)
            if entry is None or not entry.complete:
                continue
            entries[text][name] = entry
            self._use(entry, data)
        return entries

    def _use(self, entry: Entry, data: ImageDataset) -> None:
        key = entry.meta.get("key") or f"{entry.folder}:{entry.meta.get('file_hash')}:{data.fingerprint}"
        if self.used.get(key, {}).get("convention", self.convention) == self.convention:
            entry.meta["convention"] = self.convention
            self.used[key] = entry.meta  # else a changed convention left the plain run as it is

    def _check_imported(self, names: list[str], dataset: str, others: bool) -> None:
        """Tell a misspelt model of the profile from one whose predictions have yet to be imported."""
        there = self.store.imported_models()
        source = self.profile.source
        known = list(load_profile(source).models) if names and source.is_file() else []
        for name in names:
            if known and name not in there and name not in known:
                raise InputError(f"{unknown('model', name, [*known, *there])}; or import its predictions")
        if names and not others and not any(self.store.imported(name, dataset).complete for name in names):
            near = f" (imported so far: {', '.join(there)})" if there else ""
            raise DataMissing(
                f"no predictions of {', '.join(names)} on {dataset}{near}: import them with "
                f"`beyond-accuracy import-predictions FILE.csv --model NAME --dataset {dataset}`"
            )
        if not names and not others:
            raise DataMissing(
                f"profile {self.profile.name} names no model: choose imported ones with --models, or import some with "
                f"`beyond-accuracy import-predictions FILE.csv --model NAME --dataset {dataset}`"
            )

    def extracted(
        self, specs: list[ModelSpec], data: ImageDataset, transforms: list[str]
    ) -> dict[tuple[str, str], Entry]:
        """Entries with features of some networks, by transform and model; of those with a fitted head nothing else."""
        headed, bare = [spec for spec in specs if spec.head in heads.KINDS], replace(data, classes=None, keep="all")
        plain = [spec for spec in specs if spec not in headed]
        return self._run(plain, data, transforms, True) | self._run(headed, bare, transforms)

    def _run(
        self, specs: list[ModelSpec], data: ImageDataset, transforms: list[str], features: bool = False
    ) -> dict[tuple[str, str], Entry]:
        if not specs:
            return {}
        cards = []
        for card in map(self.card, specs):
            try:
                if data.classes is not None and not features:
                    card.check(data.classes)
                cards.append(card)
            except InputError as error:
                self.left_out[str(error)] = None
        precision = jobs_.choose_precision(self.profile.settings.precision, self.device)
        jobs = jobs_.plan(cards, data, transforms, self.store, self.profile.settings, precision)
        for job in jobs if self.run and not os.environ.get("BEYOND_ACCURACY_REPORT") else ():
            if job.entry.key not in ASKED:  # once a command: its notebooks take what it found
                ASKED.add(job.entry.key)
                job.entry.retry()
        lacking = [job for job in jobs if not job.entry.settled]
        if lacking and not self.run:
            raise DataMissing(f"{data.name}: no stored predictions of {lacking[0].card.name}; build its page first")
        if lacking:
            with jobs_.announced(data, jobs, self.options.progress):
                self._engine()(jobs, data, self.store, self.profile.settings, self.options)
        texts = [text for _ in cards for text in transforms]
        found = {}
        for text, job in zip(texts, jobs, strict=True):
            if reason := job.entry.refused:
                self.left_out[f"{reason} ({data.name}{'' if text == 'none' else f', {text}'})"] = None
            else:
                found[text, job.card.name] = job.entry.described()
        return found

    def _engine(self) -> Callable:
        wanted = self.options.engine or self.profile.settings.engine
        if wanted != "local":
            return RUN_BY[wanted]
        from beyond_accuracy.inference import run as inference  # here: it imports torch

        return inference.run

    def rows(self, entry: Entry, data: ImageDataset) -> pd.DataFrame:
        """Rows of an entry; those it lacks were left out with `--skip-bad`, or it is an error."""
        frame = entry.frame()
        ids = frame["id"].to_numpy()
        if np.array_equal(ids, data.ids):
            return frame
        there = pd.Index(data.ids).isin(ids)
        if not np.array_equal(ids, data.ids[there]):
            raise InputError(
                f"stored results of {entry.meta.get('model')} on {data.name} are not of its images in their order; "
                f"delete the folder {entry.folder} and run again: nothing else is computed anew"
            )
        if left_out := data.ids[~there].tolist():
            if not self.options.skip_bad:
                raise InputError(
                    f"{data.name}: image {left_out[0]!r} in {data.source} cannot be decoded, and was left out by a run "
                    f"with --skip-bad ({len(left_out)} such images); replace the file, or pass --skip-bad again"
                )
            entry.meta["skipped"] = left_out
        return frame

    def _read(self, entry: Entry, name: str, data: ImageDataset, transform: str) -> Predictions:
        text, network = parse(transform).text, "key" in entry.meta
        frame, logits = (self.rows(entry, data), entry.array("logits")) if network else joined(entry, data)
        fitted = self.profile.models[name].head in heads.KINDS  # to these labels: no other order is possible
        if text == "none" and not fitted and data.classes is not None and not data.multilabel:
            found = frame["pred"].to_numpy(), frame["target"].to_numpy()
            wrong, odd = judge(name, data.name, *found, data.classes.names, data.columns)
            if wrong:
                raise InputError(wrong)
            self.left_out |= dict.fromkeys([odd] if odd else [])
        units = data.metadata["unit"].loc[frame["id"]].to_numpy() if "unit" in data.metadata else None
        if units is not None and len(np.unique(units)) == len(units):
            units = None
        return Predictions(name, data.name, text, frame, logits, data.columns, entry.meta, units)


def _on_same_images(found: dict[str, Predictions]) -> dict[str, Predictions]:
    every = [p.ids for p in found.values()]
    if all(np.array_equal(ids, every[0]) for ids in every):
        return found
    shared = set.intersection(*map(set, every))
    return {name: p.take(pd.Index(p.ids).isin(shared)) for name, p in found.items()}
