"""The command line: `beyond-accuracy report | predict | import-predictions | check | fetch | list`.

Exit codes: 0 complete; 1 a notebook failed; 2 bad input or malformed data; 3 data or weights missing.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path

from beyond_accuracy import __version__
from beyond_accuracy.errors import DataMissing, InputError

EPILOG = "Documentation: README.md and docs/. Exit codes: 0 complete, 1 a notebook failed, 2 bad input, 3 data missing."


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_args(argv)
    _environment(args)
    try:
        return args.run(args)
    except (InputError, DataMissing) as error:
        if args.debug:
            traceback.print_exc()
        print(f"beyond-accuracy: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("beyond-accuracy: interrupted; run the same command again to continue where it stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--data-dir", metavar="DIR", help="where datasets are (default: ~/.cache/beyond-accuracy/data)")
    common.add_argument("--cache-dir", metavar="DIR", help="where predictions are kept (default: .cache/store)")
    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument("--profile", default="mini", help="shipped profile or YAML file (default: %(default)s)")
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    running.add_argument("--batch-size", type=int, default=0, help="images per forward pass (default: by device)")
    running.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be decoded, count them")

    parser = argparse.ArgumentParser(prog="beyond-accuracy", description=__doc__.split("\n")[0], epilog=EPILOG)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    report = commands.add_parser("report", parents=[common, profile, running], help="build the report")
    report.add_argument("--only", action="append", default=[], metavar="PAGE", help="only these pages (repeatable)")
    report.add_argument("--models", default="", help="comma-separated subset of models, or imported models")
    report.add_argument("--allow-missing", action="store_true", help="missing data is no error")
    report.add_argument("--force", action="store_true", help="rebuild pages that are unchanged")
    report.set_defaults(run=_report)

    predict = commands.add_parser("predict", parents=[common, profile, running], help="run models on a dataset")
    predict.add_argument("--model", required=True, help="model of the profile, or timm:NAME or open_clip:NAME/TAG")
    predict.add_argument("--dataset", required=True, help="dataset of the profile, or a folder of class-id folders")
    predict.add_argument("--transform", default="none", help="for example scale=1.5 (default: %(default)s)")
    predict.add_argument("--limit", type=int, default=0, metavar="N", help="use N images, evenly spaced")
    predict.add_argument("--checkpoint", default="", metavar="FILE", help="local weights for timm:NAME")
    predict.add_argument("--output", metavar="FILE", help="also write the rows as Parquet or CSV")
    predict.set_defaults(run=_predict)

    imports = commands.add_parser("import-predictions", parents=[common], help="bring your own predictions")
    imports.add_argument("file", type=Path, help="CSV: file_name,predicted_class,predicted_probability[,logit_0…]")
    imports.add_argument("--model", required=True, help="name in the report")
    imports.add_argument("--dataset", required=True, help="dataset of the profile, such as imagenet_1k")
    imports.add_argument("--profile", default="predictions", help="profile that defines the dataset")
    imports.set_defaults(run=_import)

    listing = commands.add_parser("list", parents=[common, profile], help="list models, datasets or profiles")
    listing.add_argument("what", choices=["models", "datasets", "profiles"])
    listing.set_defaults(run=_list)
    return parser


def _environment(args: argparse.Namespace) -> None:
    """Pass locations on to the notebooks' kernels, which inherit the environment."""
    for option, variable in (
        ("data_dir", "BEYOND_ACCURACY_DATA"),
        ("cache_dir", "BEYOND_ACCURACY_CACHE"),
        ("device", "BEYOND_ACCURACY_DEVICE"),
    ):
        if value := getattr(args, option, None):
            os.environ[variable] = str(Path(value).resolve()) if option.endswith("_dir") else value
    if getattr(args, "skip_bad", False):
        os.environ["BEYOND_ACCURACY_SKIP_BAD"] = "1"


def _options(args: argparse.Namespace) -> dict:
    return {"device": args.device, "batch_size": args.batch_size, "skip_bad": args.skip_bad}


def _report(args: argparse.Namespace) -> int:
    from beyond_accuracy.report import build

    return build(
        args.profile,
        models=args.models,
        only=[page for value in args.only for page in value.split(",")],
        allow_missing=args.allow_missing,
        force=args.force,
        options=_options(args),
    )


def _predict(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from beyond_accuracy.profiles import DatasetSpec, ModelSpec, load_profile, unknown
    from beyond_accuracy.store import Store
    from beyond_accuracy.study import Study

    profile = load_profile(args.profile)
    source, separator, rest = args.model.partition(":")
    if separator and source in ("timm", "open_clip"):
        name, _, tag = rest.partition("/") if source == "open_clip" and ":" not in rest else (rest, "", "")
        model = ModelSpec(
            rest.replace("/", "_"), source, id=name, pretrained=tag, checkpoint=args.checkpoint, label=rest
        )
    elif args.model in profile.models:
        model = profile.models[args.model]
    else:
        raise InputError(f"{unknown('model', args.model, profile.models)}; or give timm:NAME or open_clip:NAME/TAG")
    if args.dataset in profile.datasets:
        dataset = profile.datasets[args.dataset]
    elif Path(args.dataset).is_dir():
        path = str(Path(args.dataset).resolve())
        dataset = DatasetSpec(Path(path).name, "class_folder", path)
    else:
        raise InputError(f"{unknown('dataset', args.dataset, profile.datasets)}; or give a folder of class-id folders")
    if args.limit:
        dataset = replace(dataset, limit=args.limit)
    profile = replace(
        profile,
        models={model.name: model},
        datasets={**profile.datasets, dataset.name: dataset},
        dimensions={"models": {}},
    )
    found = Study(profile, "models", Store(), _options(args)).predictions(dataset.name, args.transform)[model.name]
    n, correct = len(found), int(found.correct.sum())
    print(
        f"{model.name} on {dataset.name}, transform {found.transform}: {correct}/{n} correct, top-1 {correct / n:.2%}"
    )
    print(f"store: {found.meta.get('key')} (device {found.meta.get('device')})")
    if args.output:
        _write_rows(found, Path(args.output))
    return 0


def _write_rows(found, path: Path) -> None:
    frame = found.frame
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        if found.logits is not None:
            frame = frame.assign(logits=list(found.logits))
        frame.to_parquet(path, index=False)
    print(f"wrote {len(frame)} rows to {path}")


def _import(args: argparse.Namespace) -> int:
    from beyond_accuracy.datasets import load_dataset
    from beyond_accuracy.imports import import_predictions
    from beyond_accuracy.profiles import load_profile, unknown
    from beyond_accuracy.store import Store

    profile = load_profile(args.profile)
    if args.dataset not in profile.datasets:
        raise InputError(f"profile {profile.name}: {unknown('dataset', args.dataset, profile.datasets)}")
    entry = import_predictions(args.file, args.model, load_dataset(profile.datasets[args.dataset]), Store())
    print(f"imported {entry.meta['n']} predictions of {args.model} on {args.dataset}")
    print(f"next: beyond-accuracy report --profile {args.profile} --models {args.model}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from beyond_accuracy.profiles import available_profiles, load_profile
    from beyond_accuracy.store import Store

    if args.what == "profiles":
        for name in available_profiles():
            print(f"{name:14} {load_profile(name).title}")
        return 0
    profile = load_profile(args.profile)
    if args.what == "models":
        for spec in profile.models.values():
            print(f"{spec.name:16} {spec.source:12} {spec.id} {spec.pretrained}".rstrip())
        for name in Store().imported_models():
            print(f"{name:16} {'predictions':12} imported")
        return 0
    for spec in profile.datasets.values():
        print(f"{spec.name:20} {spec.reader:16} {spec.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
