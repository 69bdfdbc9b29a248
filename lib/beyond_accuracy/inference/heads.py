"""Heads fitted on frozen features: any backbone answers for any labelled set, and no page knows the difference.

One rule: an image is answered by a head that never saw it, nor anything of its unit (its group, its near-duplicates):
on the images that heads are fitted to (also transformed) the head of the other folds, elsewhere one fitted to them all.
scikit-learn is imported where heads are fitted: it takes a second, and most commands need none.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.files import load_arrays, save_arrays
from beyond_accuracy.base.profile import ModelSpec
from beyond_accuracy.data.dataset import ImageDataset
from beyond_accuracy.data.transforms import parse
from beyond_accuracy.inference.predictions import score
from beyond_accuracy.inference.store import Entry

KINDS = ("probe", "knn", "zero_shot")  # that need the features alone
FORMAT = 1  # part of the key: another way to fit is another head
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of C, the inverse strength of regularisation
FOLDS, INNER = 5, 3  # outer folds that answer, inner ones that choose C
CHOOSING = 3000  # images at most to choose C on
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the weighted vote (Caron et al. 2021, DINO)

Answer = Callable[[NDArray], NDArray]  # features (n, width) -> logits (n, classes)


@dataclass(frozen=True)
class Fitted:
    """Heads, one per fold and one fitted to everything."""

    fold: pd.Series  # image id -> the fold whose head never saw it
    answers: list[Answer]  # of the folds, then the whole

    def logits(self, ids: NDArray, features: NDArray) -> NDArray[np.float32]:
        """What is answered of some images, each by a head that never saw it."""
        which = self.fold.reindex(ids).fillna(len(self.answers) - 1).to_numpy(int)
        order = np.argsort(which, kind="stable")
        parts = [self.answers[k](np.asarray(features[which == k])) for k in np.unique(which)]
        return np.concatenate(parts)[np.argsort(order)].astype(np.float32)


# Fitting --------------------------------------------------------------------------------------------------------------


def folds_of(targets: NDArray, units: NDArray, seed: int, k: int = FOLDS) -> NDArray[np.int64]:
    """Fold of each image: classes balanced, units whole, as many as the second most frequent class has units.

    Raises:
        InputError: Fewer than two classes have two units: whatever was fitted could not be asked about an unseen image.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    sizes = pd.Series(units).groupby(targets).nunique().sort_values(ascending=False)
    if len(sizes) < 2 or sizes.iloc[1] < 2:
        raise InputError(
            f"{len(targets)} images of {len(sizes)} classes: at least two classes need two images or more that do not "
            "belong together (a group, near-duplicates), so that a head can be fitted to some and asked about others"
        )
    k = max(2, min(k, int(sizes.iloc[1]), int(pd.Series(targets).value_counts().max())))
    fold = np.zeros(len(targets), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
        for i, (_, test) in enumerate(
            StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(units, targets, units)
        ):
            fold[test] = i
    return fold


def probe(features: NDArray, targets: NDArray, c: float):
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _fit(make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)), features, targets)


def _fit(model, features: NDArray, targets: NDArray):
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, targets)


def choose_c(features: NDArray, targets: NDArray, units: NDArray, seed: int, held: NDArray | None = None) -> float:
    """The C of `GRID` with the lowest log-loss on inner folds, or on the images `held` out (a validation set).

    Of more than `CHOOSING` images a sample decides, and C is carried over at equal regularisation per image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    rows, classes = np.arange(len(targets)), np.unique(targets)
    if held is None and len(rows) > CHOOSING:
        rows = np.sort(np.random.default_rng(seed).choice(rows, CHOOSING, replace=False))
    x, y = features[rows], targets[rows]
    try:
        fold = np.where(held[rows], 0, -1) if held is not None else folds_of(y, units[rows], seed, INNER)
    except InputError:
        return GRID[len(GRID) // 2]  # too few units to choose by
    used = fold >= 0
    said = np.full((len(GRID), len(rows), len(classes)), 1e-6)
    for k in range(fold.max() + 1):
        known, asked = fold != k, np.flatnonzero(fold == k)
        if len(np.unique(y[known])) < 2:
            continue
        scaler = StandardScaler().fit(x[known])
        model = LogisticRegression(max_iter=1000, warm_start=True)  # from strong to weak: each starts at the one before
        for i, c in enumerate(GRID):
            _fit(model.set_params(C=c), scaler.transform(x[known]), y[known])
            places = np.searchsorted(classes, model.classes_)
            said[np.ix_([i], asked, places)] += model.predict_proba(scaler.transform(x[asked]))
    losses = [log_loss(y[used], p[used] / p[used].sum(axis=1, keepdims=True), labels=classes) for p in said]
    return GRID[int(np.argmin(losses))] * len(rows) / len(targets)


def _linear(model, k: int) -> tuple[NDArray, NDArray]:
    """Weights (width, k) and offsets of a fitted probe on the features as they are.

    A class it never saw has the odds of one image among all it saw, whatever the features.
    """
    scaler, fit = model[0], model[1]
    coefficients, start = fit.coef_, fit.intercept_
    if len(fit.classes_) == 2:
        coefficients, start = np.vstack([0 * coefficients, coefficients]), np.r_[0, start]
    weights = np.zeros((coefficients.shape[1] + 1, k))
    weights[-1] = np.nan
    weights[:-1, fit.classes_] = (coefficients / scaler.scale_).T
    weights[-1, fit.classes_] = start - coefficients @ (scaler.mean_ / scaler.scale_)
    return weights, np.array(np.log(scaler.n_samples_seen_))


def answer_linear(weights: NDArray, seen: NDArray) -> Answer:
    """The head of one probe from its weights and how many images it saw, as `fit_probes` gives them."""

    def answer(features: NDArray) -> NDArray:
        logits = features.astype(np.float64) @ weights[:-1] + weights[-1]
        unseen = np.isnan(weights[-1])
        if unseen.any():
            logits[:, unseen] = logsumexp(logits[:, ~unseen], axis=1, keepdims=True) - seen
        return logits

    return answer


def answer_knn(features: NDArray, targets: NDArray, k: int) -> Answer:
    """A vote of the nearest images by cosine, closer ones counting more; smoothed, so that no class is impossible."""
    from sklearn.preprocessing import normalize

    known, marks = normalize(features), np.eye(k)[targets]

    def answer(asked: NDArray) -> NDArray:
        near = min(NEIGHBOURS, len(known))
        out = np.empty((len(asked), k))
        for start in range(0, len(asked), 512):
            alike = normalize(asked[start : start + 512]) @ known.T
            best = np.argpartition(-alike, near - 1, axis=1)[:, :near]
            weight = np.exp((np.take_along_axis(alike, best, axis=1) - 1) / TEMPERATURE)
            votes = np.einsum("nk,nkc->nc", weight, marks[best])
            out[start : start + 512] = np.log(votes / votes.sum(axis=1, keepdims=True) + 1 / (len(known) + k))
        return out

    return answer


def fit_probes(features: NDArray, targets: NDArray, units: NDArray, fold: NDArray, k: int, seed: int, val: NDArray):
    """Weights of the probe of every fold and of all, (folds + 1, width + 1, k), how many each saw (log), and its C."""
    weights, seen, chosen = [], [], []
    for i in [*range(fold.max() + 1), -1]:
        rows = fold != i if i >= 0 else np.ones(len(fold), bool)
        held = val[rows] if val.any() and not val[rows].all() else None
        x, y = features[rows], targets[rows]
        if len(np.unique(y)) < 2:
            raise InputError(f"a fold without two classes is left with {len(y)} images of {len(np.unique(y))} class")
        c = choose_c(x, y, units[rows], seed, held)
        weight, n = _linear(probe(x, y, c), k)
        weights.append(weight), seen.append(n), chosen.append(c)
    return np.stack(weights), np.stack(seen), np.array(chosen)


# From and to the store ------------------------------------------------------------------------------------------------


def layer_of(entry: Entry, kind: str) -> str:
    """The features a head is fitted to: before a classifier, before (zero-shot: after) a CLIP model's projection."""
    return next(name for name in entry.arrays() if name.startswith("features-") and (
        kind != "zero_shot" or name == "features-projected"))  # fmt: skip


def answered(
    outputs, specs: list[ModelSpec], data: ImageDataset, transforms: list[str]
) -> dict[tuple[str, str], Entry]:
    """Entries with the answers of fitted heads, by transform and model; fits and runs what the store lacks."""
    if not specs:
        return {}
    bare = outputs.extracted(specs, data, transforms)
    if data.classes is None:  # a set that is only probed
        return bare
    home = outputs.data(str(outputs.dataset_spec(data.name).options.get("fit") or data.name))
    fitting = [spec for spec in specs if spec.head != "zero_shot"]
    plain = outputs.extracted(fitting, home, ["none"])
    found = {}
    for spec in specs:
        source, fitted = plain.get(("none", spec.name)), None
        if spec in fitting and source is None:  # a network that does not take these images
            continue
        parts = _parts(outputs, spec, data, home, source)
        for text in [text for text in transforms if (text, spec.name) in bare]:
            seen = bare[text, spec.name]
            own = {**seen.meta.get("key_parts", {}), **parts, "features": seen.key}
            entry = outputs.store.entry(own, {**seen.meta, "key_parts": own, "transform": parse(text).text})
            if not entry.complete:
                fitted = fitted or _fitted(outputs, spec, data, home, source, parts)
                _write(entry, seen, fitted, spec.head, data)
            found[text, spec.name] = entry.described()
    return found


def _parts(outputs, spec: ModelSpec, data: ImageDataset, home: ImageDataset, source: Entry | None) -> dict:
    """What the key of an answer holds beside the features: everything that makes another head."""
    classes = data.classes.prompted(outputs.profile.settings.prompts)
    if spec.head == "zero_shot":
        scale = outputs.card(spec).logit_scale
        return {"head": [spec.head, FORMAT], "prompts": classes.prompt_hash, "logit_scale": scale}
    units, val = _units(home)
    split = pd.util.hash_pandas_object(pd.DataFrame({"unit": units, "val": val}), index=False).sum()
    parts = {"head": [spec.head, FORMAT, outputs.profile.settings.seed], "fitted": source.key, "units": int(split)}
    return parts | {"class_ids": list(classes.ids)}


def _units(home: ImageDataset) -> tuple[pd.Series, pd.Series]:
    """Per image id the unit that is never split, and whether it is of a given validation set."""
    about = home.metadata
    units = about["unit"] if "unit" in about else pd.Series(np.arange(len(home)), index=about.index)
    return units, (about["split"] if "split" in about else units).astype(str) == "val"


def _fitted(outputs, spec: ModelSpec, data: ImageDataset, home: ImageDataset, source: Entry | None, parts: dict):
    if spec.head == "zero_shot":
        return Fitted(pd.Series(dtype=int), [_answer_text(outputs, spec, data)])
    rows, seed = outputs.rows(source, home), outputs.profile.settings.seed
    features = np.asarray(source.array(layer_of(source, spec.head)))
    targets, k = rows["target"].to_numpy(np.int64), len(data.classes)
    units, val = (values.loc[rows["id"]].to_numpy() for values in _units(home))
    try:
        fold = folds_of(targets, units, seed)
    except InputError as error:
        raise InputError(f"{home.name}: {error}") from None
    if spec.head == "knn":
        sets = [fold != i for i in range(fold.max() + 1)] + [np.ones(len(fold), bool)]
        return Fitted(pd.Series(fold, rows["id"]), [answer_knn(features[s], targets[s], k) for s in sets])
    file = outputs.store.head_file(parts)
    if (kept := load_arrays(file)) is None:
        weights, seen, chosen = fit_probes(features, targets, units, fold, k, seed, val)
        kept = {"weights": weights, "seen": seen, "c": chosen, "fold": fold}
        save_arrays(file, kept)
    answers = [answer_linear(w, n) for w, n in zip(kept["weights"], kept["seen"], strict=True)]
    return Fitted(pd.Series(fold, rows["id"]), answers)


def _answer_text(outputs, spec: ModelSpec, data: ImageDataset) -> Answer:
    from sklearn.preprocessing import normalize

    from beyond_accuracy.inference import run  # here: it imports torch
    from beyond_accuracy.models.load import model_for

    card, profile = outputs.card(spec), outputs.profile
    device, classes = run.pick_device(outputs.device), data.classes.prompted(profile.settings.prompts)
    model = model_for(card, profile.settings, profile.imports).to(device)
    text = run.text_head(model, classes, device, outputs.store).cpu().numpy()
    return lambda features: card.logit_scale * normalize(features) @ text


def _write(entry: Entry, seen: Entry, fitted: Fitted, kind: str, data: ImageDataset) -> None:
    rows = seen.frame()
    logits = fitted.logits(rows["id"].to_numpy(), seen.array(layer_of(seen, kind)))
    logits = (logits - logits.max(axis=1, keepdims=True)).clip(np.finfo(np.float16).min).astype(np.float16)
    whole = (0, len(rows))
    with entry.lock() as locked:
        if not entry.complete:
            entry.start({name: seen.meta.get(name, "") for name in ("device", "torch", "computed_by")}, locked)
            frame = rows[["id", "target"]].assign(**score(logits, rows["target"].to_numpy(np.int64), data.columns))
            entry.write_part(whole, frame, {"logits": logits} if data.keep != "none" else {})
            entry.finish([whole])
