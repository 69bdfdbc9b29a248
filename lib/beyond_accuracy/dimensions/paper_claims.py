"""The paper's findings, put as inequalities between numbers that a run can have.

Source: Vishniakov, Shen & Liu, "ConvNet vs Transformer, Supervised vs CLIP: Beyond ImageNet Accuracy" (arXiv
2311.09215), its summary and the sections of its figures. Which data set plays which part comes from the profile, so
the same claims are asked of ImageNet and of the mini world.
"""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from beyond_accuracy.data.transforms import IDENTITY_AT
from beyond_accuracy.dimensions.claims import Claim, Inequality, Term
from beyond_accuracy.show.results import ECE

VIT_SUP, CONVNEXT_SUP, VIT_CLIP, CONVNEXT_CLIP = CELLS = ("vit_sup", "convnext_sup", "vit_clip", "convnext_clip")
WORDS = {
    VIT_SUP: "ViT, supervised",
    CONVNEXT_SUP: "ConvNeXt, supervised",
    VIT_CLIP: "ViT, CLIP",
    CONVNEXT_CLIP: "ConvNeXt, CLIP",
}
NEAR = 2.0
"""Points of mean VTAB accuracy within which the paper's "on par with CLIP" is read."""


def paper_claims(dimensions: Mapping[str, Mapping], results: pd.DataFrame) -> list[Claim]:
    """The paper's findings, put as inequalities between numbers this run can have.

    Args:
        dimensions: The profile's dimensions: which dataset plays which part on which page.
        results: Results rows, for what was recorded (factors, strengths).
    """
    return [
        *_calibration(dimensions.get("calibration", {}), results),
        *_mistakes(dimensions.get("mistakes", {}), results),
        *_shape_bias(dimensions.get("shape_bias", {})),
        *_robustness(dimensions.get("robustness", {})),
        *_transfer(),
        *_synthetic(dimensions.get("synthetic", {})),
        *_invariance(dimensions.get("invariance", {}), results),
    ]


def _pair(dataset: str, metric: str, higher: str, lower: str, where: str = "") -> Inequality:
    words = f"{WORDS[higher]} above {WORDS[lower]}" + (f" on {where}" if where else "")
    return Inequality(words, (Term(1.0, dataset, metric, higher, lower),))


def _claim(name: str, statement: str, dimension: str, inequalities, lacking: str = "") -> Claim:
    why = "" if inequalities else f"no {lacking} in what the page {dimension} recorded"
    return Claim(name, statement, dimension, tuple(inequalities), why)


def _listed(value: object) -> list[str]:
    return [] if value is None else [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _calibration(roles: Mapping, results: pd.DataFrame) -> list[Claim]:
    clean = _listed(roles.get("clean"))
    sets = [*clean, *_listed(roles.get("shifted"))]
    over = [
        Inequality(f"{WORDS[m]}: confidence above accuracy on {d}", (Term(1.0, d, "confidence_gap", m),))
        for d in sets
        for m in (VIT_CLIP, CONVNEXT_CLIP)
    ]
    under = [
        Inequality(f"{WORDS[m]}: confidence below accuracy on {d}", (Term(-1.0, d, "confidence_gap", m),))
        for d in clean
        for m in (VIT_SUP, CONVNEXT_SUP)
    ]
    known = results[results.metric == ECE].ci_low.notna().any()  # the paper's own numbers are the plain ones
    metric = ECE if known else "ece"
    better = [_pair(d, metric, VIT_SUP, CONVNEXT_SUP, d) for d in sets]
    return [
        _claim("clip_overconfident", "CLIP models are overconfident", "calibration", over, "clean set"),
        _claim(
            "supervised_underconfident",
            "Supervised models are slightly underconfident",
            "calibration",
            under,
            "clean set",
        ),
        _claim(
            "convnext_calibrated",
            "Supervised ConvNeXt is better calibrated than supervised ViT (ViT has the higher ECE)",
            "calibration",
            better,
            "clean set",
        ),
    ]


def _mistakes(roles: Mapping, results: pd.DataFrame) -> list[Claim]:
    rows = results[(results.dimension == "mistakes") & results.metric.str.startswith("error_ratio:")]
    names = list(dict.fromkeys(rows.dataset))
    dataset = names[0] if names else str(roles.get("factors", "imagenet_x"))
    # Not by error ratios: they cannot exceed one over the error rate, so that whoever errs more has the lower ones.
    lower = [
        _pair(dataset, "factor_effect:average", supervised, clip)
        for supervised, clip in ((VIT_SUP, VIT_CLIP), (CONVNEXT_SUP, CONVNEXT_CLIP))
    ]
    factors = [m.removeprefix("error_ratio:") for m in dict.fromkeys(rows.metric)]
    hardest = [
        Inequality(
            f"texture above {factor.replace('_', ' ')}, mean of the models",
            tuple(
                Term(weight, dataset, f"error_ratio:{name}", model)
                for model in CELLS
                for name, weight in (("texture", 0.25), (factor, -0.25))
            ),
        )
        for factor in factors
        if "texture" in factors and factor not in ("texture", "average")
    ]
    return [
        _claim(
            "clip_lower_error_ratio",
            "CLIP models err less on the labelled factors than their accuracy suggests (lower mean effect in log-odds)",
            "mistakes",
            lower,
        ),
        _claim(
            "texture_hardest",
            "Texture is the hardest factor (highest error ratio)",
            "mistakes",
            hardest,
            "texture factor",
        ),
    ]


def _shape_bias(roles: Mapping) -> list[Claim]:
    sets = _listed(roles.get("cue_conflict"))
    clip = [_pair(d, "shape_bias", c, s) for d in sets for c, s in ((VIT_CLIP, VIT_SUP), (CONVNEXT_CLIP, CONVNEXT_SUP))]
    vit = [_pair(d, "shape_bias", v, c) for d in sets for v, c in ((VIT_SUP, CONVNEXT_SUP), (VIT_CLIP, CONVNEXT_CLIP))]
    return [
        _claim("clip_shape", "CLIP models are more shape-biased", "shape_bias", clip, "cue-conflict set"),
        _claim("vit_shape", "ViTs are more shape-biased than ConvNeXts", "shape_bias", vit, "cue-conflict set"),
    ]


def _robustness(roles: Mapping) -> list[Claim]:
    names = {role: _listed(roles.get(role)) for role in ("v2", "a", "c", "corrupt", "hard", "real", "r", "sketch")}
    datasets = {role: found[0] for role, found in names.items() if found}
    pairs = ((VIT_SUP, VIT_CLIP), (CONVNEXT_SUP, CONVNEXT_CLIP))
    ahead = [
        _pair(datasets[role], "accuracy", supervised, clip, datasets[role])
        for role in ("v2", "a", "c", "corrupt", "hard", "real")
        if role in datasets and not (role == "corrupt" and "c" in datasets)
        for supervised, clip in pairs
    ]
    behind = [
        _pair(datasets[role], "accuracy", clip, supervised, datasets[role])
        for role in ("r", "sketch")
        if role in datasets
        for supervised, clip in pairs
    ]
    return [
        _claim(
            "supervised_robust",
            "Supervised models are ahead on robustness benchmarks other than R and Sketch",
            "robustness",
            ahead,
            "shifted sets",
        ),
        _claim("clip_r_sketch", "CLIP models are ahead on R and Sketch", "robustness", behind, "R and Sketch"),
    ]


def _transfer() -> list[Claim]:
    near = [
        Inequality(
            f"{WORDS[CONVNEXT_SUP]} at most {NEAR:g} points below {WORDS[clip]}",
            (Term(1.0, "average", "accuracy", CONVNEXT_SUP, clip),),
            NEAR,
        )
        for clip in (VIT_CLIP, CONVNEXT_CLIP)
    ]
    ahead = [_pair("average", "accuracy", CONVNEXT_SUP, VIT_SUP)]
    return [
        _claim(
            "convnext_transfers", "Supervised ConvNeXt transfers better than supervised ViT (probes)", "transfer", ahead
        ),
        _claim(
            "convnext_near_clip",
            f"Supervised ConvNeXt transfers nearly as well as CLIP models (within {NEAR:g} points)",
            "transfer",
            near,
        ),
    ]


def _synthetic(roles: Mapping) -> list[Claim]:
    ahead = [
        _pair(d, "accuracy:average", convnext, vit)
        for d in _listed(roles.get("pug"))
        for convnext, vit in ((CONVNEXT_SUP, VIT_SUP), (CONVNEXT_CLIP, VIT_CLIP))
    ]
    return [_claim("convnext_synthetic", "ConvNeXts are ahead on synthetic data", "synthetic", ahead, "sweeps")]


def _invariance(roles: Mapping, results: pd.DataFrame) -> list[Claim]:
    claims = []
    others = [model for model in CELLS if model != CONVNEXT_SUP]
    ladders = {kind: _ladder(roles, results, kind) for kind in ("scale", "resolution", "shift")}
    for kind in ("scale", "resolution"):
        dataset, base, strengths = ladders[kind]
        inequalities = [
            Inequality(
                f"{WORDS[CONVNEXT_SUP]} loses less than {WORDS[other]} under {kind}",
                tuple(_loss_terms(dataset, base, strengths, -1.0, CONVNEXT_SUP, other)),
            )
            for other in (others if strengths else ())
        ]
        statement = f"Supervised ConvNeXt is the most invariant to {kind}"
        claims.append(_claim(f"convnext_{kind}", statement, "invariance", inequalities, f"{kind} ladder"))
    both = bool(ladders["shift"][2] and ladders["scale"][2])
    robust = [
        Inequality(
            f"{WORDS[model]} loses less under shift than under scale",
            tuple(
                term
                for kind, weight in (("scale", 1.0), ("shift", -1.0))
                for term in _loss_terms(*ladders[kind], weight, model)
            ),
        )
        for model in (CELLS if both else ())
    ]
    statement = "Models are more robust to shift than to scale"
    return [*claims, _claim("shift_over_scale", statement, "invariance", robust, "scale and shift ladders")]


def _ladder(roles: Mapping, results: pd.DataFrame, kind: str) -> tuple[str, str, list[str]]:
    """Dataset, metric of the untouched images, and metrics of the other strengths of a transform."""
    rows = results[(results.dimension == "invariance") & results.metric.str.startswith(f"accuracy:{kind}=")]
    dataset = next(iter(dict.fromkeys(rows.dataset)), str(roles.get("clean", "")))
    metrics = list(dict.fromkeys(rows.metric))
    base = f"accuracy:{kind}={IDENTITY_AT[kind]:g}"  # so the paper's numbers; a run has the plain images once for all
    moved = [metric for metric in metrics if metric != base]
    base = base if base in metrics else "accuracy"
    plain = (results.dimension == "invariance") & (results.dataset == dataset) & (results.metric == base)
    return dataset, base, moved if plain.any() else []


def _loss_terms(
    dataset: str, base: str, strengths: Sequence[str], weight: float, a: str, b: str = ""
) -> Iterator[Term]:
    """Terms of ``weight * (accuracy at the start - mean accuracy over the strengths)``, of a or of a minus b."""
    yield Term(weight, dataset, base, a, b)
    for metric in strengths:
        yield Term(-weight / len(strengths), dataset, metric, a, b)
