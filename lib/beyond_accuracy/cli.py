"""The command line: `beyond-accuracy report | compare | predict | import-predictions | check | fetch | list`.

Exit codes: 0 complete; 1 a notebook failed; 2 bad input or malformed data; 3 data or weights missing.
"""

import argparse
import ast
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from beyond_accuracy import __version__
from beyond_accuracy.base.errors import DataMissing, InputError
from beyond_accuracy.base.files import atomic_write, write_atomically
from beyond_accuracy.base.paths import cache_dir, project_root
from beyond_accuracy.base.profile import (
    ENGINES,
    DatasetSpec,
    ModelSpec,
    Profile,
    available_profiles,
    load_profile,
    typed_model,
    unknown,
)

# Everything else is imported by the command that needs it: `--help` and `list` should not wait for it.
EPILOG = "Documentation: README.md and docs/. Exit codes: 0 complete, 1 a notebook failed, 2 bad input, 3 data missing."


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a name that their encoding lacks is no reason to fail after the work
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _environment(args)
    with suppress(ImportError, ValueError, OSError):  # every stored array that is read holds a file open
        import resource

        soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 2**16)), most))
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, DataMissing, OSError) as error:
        if args.debug:
            traceback.print_exc()
        where = f"{error.filename}: " if getattr(error, "filename", None) else ""
        print(f"beyond-accuracy: {where}{getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return getattr(error, "exit_code", InputError.exit_code)
    except KeyboardInterrupt:
        print("beyond-accuracy: interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--data-dir", metavar="DIR", help="where datasets are (default: ~/.cache/beyond-accuracy/data)")
    common.add_argument("--cache-dir", metavar="DIR", help="where predictions are kept (default: .cache/store)")
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument("--profile", default="mini", help="shipped profile or YAML file (default: %(default)s)")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--device", default="auto", help="auto, cuda, cuda:0,1 (several cards), all, mps or cpu (default: %(default)s)"
    )
    running.add_argument("--engine", choices=ENGINES, help="this machine, or a Ray cluster (default: the profile's)")
    running.add_argument("--batch-size", type=_count, default=0, help="images per forward pass (default: by device)")
    running.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be decoded, count them")

    whole = argparse.ArgumentParser(prog="beyond-accuracy", description=__doc__.split("\n")[0], epilog=EPILOG)
    whole.add_argument("--version", action="version", version=__version__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    several = {"action": "append", "default": []}
    report = commands.add_parser("report", parents=[common, profile, running], help="build the report")
    report.add_argument("--only", **several, metavar="PAGE", help="only these pages (repeatable)")
    report.add_argument("--models", default="", help="comma-separated subset of models, or imported models")
    report.add_argument("--allow-missing", action="store_true", help="missing data is no error")
    parameter = "set a parameter of the notebooks that have it, for example RESAMPLES=500 (repeatable)"
    report.add_argument("--parameter", **several, type=_parameter, metavar="NAME=VALUE", help=parameter)
    report.add_argument("--fetch", action="store_true", help="first download what is missing and may be downloaded")
    report.add_argument("--yes", action="store_true", help="with --fetch: start downloading without asking")
    report.add_argument("--force", action="store_true", help="rebuild pages that are unchanged")
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", parents=[common, running], help="your own images: which backbone")
    compare.add_argument("folder", type=Path, help="class folders, train/ and test/ above them, or a CSV path,label")
    named = "candidates, timm:NAME, open_clip:NAME/TAG"
    compare.add_argument("--models", nargs="+", default=[], metavar="MODEL", help=named)
    compare.add_argument("--depth", default="standard", help="quick, standard or full (default: %(default)s)")
    compare.add_argument("--all", action="store_true", help="take those clearly behind to all stages, too")
    compare.add_argument("--name", default="", help="of the report (default: the folder's)")
    compare.set_defaults(run=_compare)

    predict = commands.add_parser("predict", parents=[common, profile, running], help="run models on a dataset")
    predict.add_argument("--model", required=True, help="model of the profile, or timm:NAME or open_clip:NAME/TAG")
    predict.add_argument("--dataset", required=True, help="dataset of the profile, or a folder of class-id folders")
    predict.add_argument("--transform", default="none", help="for example scale=1.5 (default: %(default)s)")
    predict.add_argument("--limit", type=_count, default=0, metavar="N", help="use N images, evenly spaced")
    predict.add_argument("--checkpoint", default="", metavar="FILE", help="local weights for timm:NAME")
    predict.add_argument("--output", metavar="FILE", help="also write the rows as Parquet or CSV")
    predict.set_defaults(run=_predict)

    imports = commands.add_parser("import-predictions", parents=[common], help="bring your own predictions")
    imports.add_argument("file", type=Path, help="CSV: file_name,predicted_class,predicted_probability[,logit_0…]")
    imports.add_argument("--model", required=True, help="name in the report")
    imports.add_argument("--dataset", required=True, help="dataset of the profile, such as imagenet_1k")
    imports.add_argument("--profile", default="predictions", help="profile that defines the dataset")
    imports.add_argument("--any-accuracy", action="store_true", help="also if it is no better than guessing")
    imports.set_defaults(run=_import)

    check = commands.add_parser("check", parents=[common, profile, running], help="what is missing or malformed")
    check.add_argument("--only", **several, metavar="NAME", help="only these datasets or models")
    check.add_argument("--forward", action="store_true", help="run each model on up to 500 images, compare accuracies")
    check.set_defaults(run=_check)

    fetch = commands.add_parser("fetch", parents=[common], help="download what may be downloaded")
    # An argument of its own: parent parsers share theirs, and a default set on one would change it for all commands.
    fetch.add_argument("--profile", default="paper", help="profile whose data is fetched (default: %(default)s)")
    fetch.add_argument("--only", **several, metavar="NAME", help="datasets, pages, or `models`")
    fetch.add_argument("--yes", action="store_true", help="start without asking")
    fetch.set_defaults(run=_fetch)

    listing = commands.add_parser("list", parents=[common, profile], help="list models, datasets or profiles")
    listing.add_argument("what", choices=["models", "datasets", "profiles"])
    listing.set_defaults(run=_list)
    return whole


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def _parameter(text: str) -> tuple[str, object]:
    """`NAME=VALUE`; the value is a Python literal, else the text itself."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    if name in ("PROFILE", "MODELS"):
        raise argparse.ArgumentTypeError(f"give --{name.lower()} instead of the parameter {name}")
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
    return name, literal if literal is None or isinstance(literal, (bool, int, float, str, list, dict)) else value


def _environment(args: argparse.Namespace) -> None:
    """Pass locations on to the notebooks' kernels, which inherit the environment."""
    if os.path.expanduser("~") == "~":  # neither HOME nor a passwd entry: a container under any user; libraries fail
        os.environ["HOME"] = str(project_root() / ".cache" / "home")
    for option in ("data_dir", "cache_dir", "device", "engine", "skip_bad"):
        if value := getattr(args, option, None):
            name, folder, _ = option.partition("_dir")
            os.environ[f"BEYOND_ACCURACY_{name.upper()}"] = str(Path(value).resolve() if folder else value)


def _options(args: argparse.Namespace) -> dict:
    from beyond_accuracy.cluster import ray  # noqa: F401  # from here on outputs can be computed by it

    return {"device": args.device, "engine": args.engine, "batch_size": args.batch_size, "skip_bad": args.skip_bad}


def _report(args: argparse.Namespace) -> int:
    from beyond_accuracy.models.card import stay_offline_without_network
    from beyond_accuracy.report.build import build

    profile = load_profile(args.profile).select(args.models)
    stay_offline_without_network(profile.models.values())
    if args.fetch:  # say how long a report will take, and get what it lacks
        from beyond_accuracy.inference.plan import projection

        print(*projection(profile), sep="\n")
        if code := _get(profile, _names(args.only), True, args.yes):
            print("Run the same command again to continue, or without --fetch to report on what is here.")
            return code
    only = [page for value in args.only for page in value.split(",")]
    how = {"allow_missing": args.allow_missing, "force": args.force, "parameters": dict(args.parameter)}
    return build(args.profile, models=args.models, only=only, options=_options(args), **how)


def _compare(args: argparse.Namespace) -> int:
    from beyond_accuracy.report.compare import compare

    choice = {"depth": args.depth, "everything": args.all, "name": args.name, "options": _options(args)}
    return compare(args.folder, args.models, **choice)


def _predict(args: argparse.Namespace) -> int:
    from beyond_accuracy.inference.outputs import Outputs
    from beyond_accuracy.inference.store import Store
    from beyond_accuracy.measure.verdicts import counted
    from beyond_accuracy.models.card import stay_offline_without_network

    output, profile = _output(args.output), load_profile(args.profile)
    model, dataset = _model(profile, args), _dataset(profile, args.dataset)
    stay_offline_without_network([model])
    dataset = replace(dataset, limit=args.limit or dataset.limit)
    profile = replace(profile, models={model.name: model}, datasets={**profile.datasets, dataset.name: dataset})
    outputs = Outputs(profile, Store(), _options(args))
    found = outputs.predictions(dataset.name, [args.transform])[args.transform].get(model.name)
    if found is None and outputs.left_out:
        raise InputError(next(iter(outputs.left_out)))
    if found is None:
        raise DataMissing(f"{model.name} has no predictions on {dataset.name} under {args.transform}; import them")
    n, correct, skipped = len(found), int(found.correct.sum()), len(found.meta.get("skipped", []))
    left_out = f", {counted(skipped, 'image')} that cannot be decoded left out" if skipped else ""
    what = f"{model.name} on {dataset.name}, transform {found.transform}"
    print(f"{what}: {correct}/{n} correct, top-1 {correct / n:.2%}{left_out}")
    print(f"store: {found.meta.get('key')} (computed on {found.meta.get('device')})")
    if output:
        write_rows(found, output)
    for line in outputs.left_out:
        print(f"beyond-accuracy: {line}", file=sys.stderr)
    return InputError.exit_code if outputs.left_out else 0


def _model(profile, args: argparse.Namespace) -> ModelSpec:
    """The model of the profile, or one given as `timm:NAME` or `open_clip:NAME/TAG`."""
    if args.model in profile.models:
        if args.checkpoint:
            raise InputError(f"--checkpoint goes with timm:NAME or open_clip:NAME; {args.model} is of the profile")
        return profile.models[args.model]
    return typed_model(args.model, profile.models, args.checkpoint)


def _dataset(profile, name: str) -> DatasetSpec:
    """The dataset of the profile, or a folder of class-id folders."""
    if name in profile.datasets:
        return profile.datasets[name]
    if not Path(name).is_dir():
        raise InputError(f"{unknown('dataset', name, profile.datasets)}; or give a folder of class-id folders")
    path = Path(name).resolve()
    return DatasetSpec(path.name or "folder", "class_folder", str(path))


def _output(text: str | None) -> Path | None:
    """Where rows go, checked before hours of computing."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"--output {text}: expected a name that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise InputError(f"--output {text}: there is no folder {path.parent}")
    return path


def write_rows(found, path: Path) -> None:
    """Predictions as CSV (`csv_text`; lists of labels separated by spaces) or Parquet, by the suffix."""
    import pyarrow.parquet as pq

    from beyond_accuracy.inference.store import rows_table
    from beyond_accuracy.show.results import csv_text

    if path.suffix == ".csv":
        frame = found.frame
        if found.multilabel:
            frame = frame.assign(target=[" ".join(map(str, labels)) for labels in found.targets])
        write_atomically(path, csv_text(frame).encode())
    else:
        table = rows_table(found.frame, {} if found.logits is None else {"logits": found.logits})
        atomic_write(path, lambda file: pq.write_table(table, file))
    print(f"wrote {len(found)} rows to {path}")


def _import(args: argparse.Namespace) -> int:
    from beyond_accuracy.data.readers import load_dataset
    from beyond_accuracy.inference.imports import import_predictions
    from beyond_accuracy.inference.store import Store

    profile = load_profile(args.profile)
    if args.dataset not in profile.datasets:
        raise InputError(f"profile {profile.name}: {unknown('dataset', args.dataset, profile.datasets)}")
    if args.model in profile.models and profile.models[args.model].source != "predictions":
        raise InputError(
            f"{args.model} is a network of profile {profile.name}, which would never use imported predictions of that "
            "name; choose another --model"
        )
    dataset = load_dataset(profile.datasets[args.dataset])
    entry = import_predictions(args.file, args.model, dataset, Store(), args.any_accuracy)
    top = f": top-1 {entry.meta['accuracy']:.1%}" if "accuracy" in entry.meta else ""
    print(f"imported {entry.meta['n']} predictions of {args.model} on {args.dataset}{top}")
    print(f"next: beyond-accuracy report --profile {args.profile} --models {args.model}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from beyond_accuracy.check import check

    os.environ["HF_HUB_OFFLINE"] = "1"  # looking, not downloading: no request, no retries
    return check(load_profile(args.profile), only=_names(args.only), forward=args.forward, options=_options(args))


def _fetch(args: argparse.Namespace) -> int:
    only = _names(args.only)
    return _get(load_profile(args.profile), only, not only or "models" in only, args.yes)


def _get(profile: Profile, only: list[str], weights: bool, yes: bool) -> int:
    """Download datasets (of pages, or by name) and weights."""
    from beyond_accuracy.data.fetch import fetch
    from beyond_accuracy.models.card import fetch_weights, missing_weights

    models = missing_weights(profile) if weights else []
    ask = input if sys.stdin.isatty() else None
    return fetch(profile, only, models=models, get_model=fetch_weights, yes=yes, ask=ask)


def _names(values: list[str]) -> list[str]:
    """Names given by repeating an option or separated by commas."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _list(args: argparse.Namespace) -> int:
    if args.what == "profiles":
        for name in available_profiles():
            print(f"{name:14} {load_profile(name).title}")
        return 0
    profile = load_profile(args.profile)
    if args.what == "datasets":
        for spec in profile.datasets.values():
            print(f"{spec.name:20} {spec.reader:16} {spec.title}")
        return 0
    for spec in profile.models.values():
        print(f"{spec.name:16} {spec.source:12} {spec.id} {spec.pretrained}".rstrip())
    if (cache_dir() / "imported").is_dir():  # asked first: the store's imports take longer than all of this
        from beyond_accuracy.inference.store import Store

        for name in Store().imported_models():
            print(f"{name:16} {'predictions':12} imported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
