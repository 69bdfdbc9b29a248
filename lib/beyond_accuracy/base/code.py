"""What code says, as a digest for keys: numbers of older code are then computed anew, and no others.

Comments, docstrings, annotations, messages of errors and layout move no number and do not count.
"""

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@lru_cache
def digest(*places: str) -> str:
    """Of functions and classes of this package, and whatever of their own files they use.

    Places: `data/geometry.py:Geometry`, `inference/run.py:_Pass._try`.
    """
    texts = []
    for place in places:
        file, _, name = place.partition(":")
        texts.append(closure((PACKAGE / file).read_text(encoding="utf-8"), name))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]


@lru_cache
def closure(source: str, name: str) -> str:
    """The text of one definition of a module and of all that it uses there; KeyError where there is none."""
    known = _known(source)
    outer, _, inner = name.partition(".")
    first = known[outer]
    if inner:
        first = next((node for node in first.body if getattr(node, "name", "") == inner), None) or known[name]
    found, todo = {name: ast.unparse(first)}, _names(first)
    while todo:
        used = todo.pop()
        if used in known and used not in found:
            found[used] = ast.unparse(known[used])
            todo |= _names(known[used])
    return "\n".join(found[used] for used in sorted(found))


@lru_cache  # one file answers for many definitions
def _known(source: str) -> dict[str, ast.AST]:
    return dict(_definitions(_Bare().visit(ast.parse(source))))


@lru_cache
def modules(names: tuple[str, ...]) -> str:
    """Of modules and of those they import, without installed libraries; once per process, as Python imports them."""
    texts, todo, own = {}, list(names), {name.partition(".")[0] for name in names}
    while todo:
        name = todo.pop()
        if name in texts or (file := _file(name, name.partition(".")[0] in own)) is None:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError):
            continue  # importing it will say what is wrong
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += [other for node in ast.walk(tree) for other in _imported(node, package)]
        texts[name] = ast.unparse(_Bare().visit(tree))
    return hashlib.sha256("\n".join(f"{name}\n{texts[name]}" for name in sorted(texts)).encode()).hexdigest()[:24]


class _Bare(ast.NodeTransformer):
    """Drops what moves no number."""

    def _body(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if hasattr(node, "returns"):
            node.returns = None
        return node

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _body

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_Raise(self, node):
        return ast.Raise()


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from ((part.id, node) for part in parts)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                one = ast.Import([ast.alias(f"{getattr(node, 'module', '')}.{alias.name}", alias.asname)])
                yield (alias.asname or alias.name).partition(".")[0], one


def _names(node: ast.AST) -> set[str]:
    """Names used in a node; texts count as well, as a table of functions may be looked up by them."""
    texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return texts | {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _file(name: str, own: bool) -> Path | None:
    """Source file of a module; None for libraries, this package, and what is no module. Imports parents of `own`."""
    top = name.partition(".")[0]
    try:
        found = importlib.util.find_spec(top)
        places = [found.origin or "", *(found.submodule_search_locations or ())]
        if not own and (top == PACKAGE.name or not any(map(Path.exists, map(Path, filter(None, places))))):
            return None
        if not own and any(place.startswith(LIBRARIES) for place in places):
            return None
        origin = importlib.util.find_spec(name).origin
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(origin) if origin and origin.endswith(".py") else None
