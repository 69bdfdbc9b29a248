"""Where things are: the checkout (or the working folder), the data, the cache, the report."""

import os
import sys
from pathlib import Path

from beyond_accuracy.base.errors import InputError

ASSETS = Path(__file__).parents[1] / "assets"
PROFILES = Path(__file__).parents[1] / "profiles"


def _checkout() -> Path | None:
    """The checkout this package is installed from, if it is."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout if (checkout / "notebooks").is_dir() else None


def expanded(path: str | Path) -> Path:
    """The path with `~` as its home folder; that of a user nobody knows stays as it is, and is then not found."""
    return Path(os.path.expanduser(path))


def project_root() -> Path:
    """Where outputs go: `BEYOND_ACCURACY_ROOT`, else the checkout or the current folder."""
    return expanded(os.environ.get("BEYOND_ACCURACY_ROOT") or _checkout() or "").absolute()


def notebooks_dir() -> Path:
    """The source notebooks: of the checkout, even when the output root is elsewhere, else those that were installed."""
    return (_checkout() or Path(sys.prefix, "share", "beyond-accuracy")) / "notebooks"


def data_dir() -> Path:
    """Where datasets are kept: `BEYOND_ACCURACY_DATA`, else a folder outside the repository."""
    return expanded(os.environ.get("BEYOND_ACCURACY_DATA", "~/.cache/beyond-accuracy/data")).absolute()


def cache_dir() -> Path:
    """Where predictions and features are kept: `BEYOND_ACCURACY_CACHE`, else `.cache/store` of the checkout."""
    return expanded(os.environ.get("BEYOND_ACCURACY_CACHE", project_root() / ".cache" / "store")).absolute()


def report_dir(profile: str) -> Path:
    """The rendered report of one profile."""
    return project_root() / "report" / profile


def figures_dir(profile: str) -> Path:
    """The figures of one profile's last run."""
    return project_root() / "figures" / profile


def own_run_dir(profile: str) -> Path | None:
    """Where a notebook run by itself records; None where `report` runs it (`BEYOND_ACCURACY_REPORT`)."""
    ours = os.environ.get("BEYOND_ACCURACY_REPORT") == str(report_dir(profile))
    return None if ours else project_root() / "runs" / profile


def resolve(path: str | Path) -> Path:
    """A path from a profile: `assets:…` ships with the package, relative ones lie under the data folder."""
    text = str(path)
    if text.startswith("assets:"):
        return ASSETS / text.removeprefix("assets:")
    return data_dir() / expanded(text)  # joined to a folder, an absolute path stays itself


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; that ipykernel was imported by something does not make it one."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython, "get_ipython") and hasattr(ipython.get_ipython(), "kernel")


def check_name(kind: str, name: str, where: str = "") -> str:
    """A name that also becomes a folder: any language and any quotes, but never a way out of its parent folder."""
    if not name or len(name) > 100 or name[0] in ".~=+-@" or not name.isprintable() or "/" in name or "\\" in name:
        raise InputError(
            f"{where}{kind} name {name[:40]!r} cannot be used: expected 1 to 100 printable characters without slashes, "
            "not starting with a dot or a sign"
        )
    return name
