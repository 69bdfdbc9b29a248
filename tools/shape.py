"""Prints the measures that keep the library thin, and fails where a bound is passed: ``make shape``."""

import ast
import json
import statistics
import sys
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib" / "beyond_accuracy"
PACKAGE = "beyond_accuracy"
# A package imports only from those before it. Modules on the top level are layers of their own.
LAYERS = (
    *("base", "measure", "data", "models", "inference", "cluster", "show", "page", "dimensions", "report"),
    *("check", "explore", "cli"),
)
BOUNDS = {
    "lines of the library (without cluster)": 15_000,
    "modules of the library (without cluster)": 75,
    "modules in the largest folder": 16,
    "imports against the layers": 0,
    "import circles": 0,
    "code lines of all notebooks": 850,
    "median lines of a notebook's cells, the worst notebook": 3,
    "lines of the longest notebook cell": 8,
    "lines of the tests": 12_000,
}


def sources(folder: Path = LIBRARY) -> list[Path]:
    """Modules of the library, but for the optional cluster package."""
    return [path for path in sorted(folder.rglob("*.py")) if "cluster" not in path.relative_to(folder).parts]


def lines(paths: list[Path]) -> int:
    """Lines of some files, docstrings and blank ones included."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def module_name(path: Path) -> str:
    """Dotted name of a module below the package, such as `data.readers.files`."""
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules_of(folder: Path) -> set[str]:
    """Names of all modules of the package in a folder."""
    return set(map(module_name, folder.rglob("*.py")))


@cache
def imports(path: Path) -> set[str]:
    """Modules of the package that a module imports, late imports included, `TYPE_CHECKING` blocks not."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    known = modules_of(LIBRARY)
    for block in [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]:
        block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            base = node.module.removeprefix(PACKAGE).lstrip(".")
            deeper = {f"{base}.{alias.name}".lstrip(".") for alias in node.names} & known
            found |= deeper or {base}
        elif isinstance(node, ast.Import):
            named = [alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}.")]
            found |= {name.removeprefix(f"{PACKAGE}.") for name in named}
    return found - {"", module_name(path)}


def against_layers() -> list[str]:
    """Imports from a package that comes later in `LAYERS`."""
    rank = {name: i for i, name in enumerate(LAYERS)}
    wrong = []
    for path in sorted(LIBRARY.rglob("*.py")):
        own = module_name(path).split(".")[0]
        for name in sorted(imports(path)):
            if own in rank and rank[name.split(".")[0]] > rank[own]:
                wrong.append(f"{module_name(path)} imports {name}")
    return wrong


def circles() -> list[list[str]]:
    """Groups of modules that import each other in a circle."""
    import networkx as nx

    graph = nx.DiGraph((module_name(path), name) for path in LIBRARY.rglob("*.py") for name in imports(path))
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def cells(path: Path) -> list[int]:
    """Code lines (not blank, no comment) of each code cell of a notebook."""
    content = json.loads(path.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]).splitlines() for cell in content["cells"] if cell["cell_type"] == "code"]
    return [sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines) for lines in code]


def parameters(path: Path) -> int:
    """Code lines of the parameters cell, which may be as long as there are parameters."""
    content = json.loads(path.read_text(encoding="utf-8"))
    tagged = [c for c in content["cells"] if "parameters" in c.get("metadata", {}).get("tags", ())]
    return sum(len("".join(cell["source"]).splitlines()) for cell in tagged)


def measures() -> dict[str, int | float]:
    """Every measure of `BOUNDS`."""
    modules = sources()
    notebooks = {path: cells(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    own = [count for path, counts in notebooks.items() for count in counts if count != parameters(path)]
    values = (
        lines(modules),
        len(modules),
        max(Counter(path.parent for path in modules).values()),
        len(against_layers()),
        len(circles()),
        sum(map(sum, notebooks.values())),
        max(statistics.median(counts) for counts in notebooks.values()),
        max(own),
        lines(sorted((ROOT / "tests").rglob("*.py"))),
    )
    return dict(zip(BOUNDS, values, strict=True))


def main() -> int:
    """Command line; exit code 1 where a bound is passed."""
    found = measures()
    for name, value in found.items():
        print(f"{'ok ' if value <= BOUNDS[name] else 'OVER'} {value:>8,} of at most {BOUNDS[name]:>6,}  {name}")
    print(*against_layers(), *(" <-> ".join(group) for group in circles()), sep="\n")
    return int(any(value > BOUNDS[name] for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
