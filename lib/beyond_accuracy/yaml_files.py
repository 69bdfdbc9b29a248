"""Reads YAML that somebody else wrote: plain values only, no endless trees, one message for whatever is wrong."""

from pathlib import Path

import yaml

from beyond_accuracy.errors import InputError

MAX_NODES = 20_000  # far above any real profile; YAML aliases can otherwise unfold without end


def is_file(path: Path) -> bool:
    """Whether it is a file; never an error."""
    try:
        return path.is_file()
    except OSError:  # a name that no file can have (too long)
        return False


def read_yaml(path: Path) -> object:
    """Content of a YAML file.

    Raises:
        InputError: It cannot be read as YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML lets KeyError, IndexError, AttributeError and others out on odd scalars
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from error


def plain(node: object, where: str) -> object:
    """The tree with text keys and plain values.

    Raises:
        InputError: A tree that aliases make endless.
    """
    count = 0

    def walk(node: object, depth: int) -> object:
        nonlocal count
        count += 1
        if depth > 20 or count > MAX_NODES:
            raise InputError(f"{where}: nested too deeply or too large for a profile")
        if isinstance(node, dict):
            return {str(key): walk(value, depth + 1) for key, value in node.items()}
        if isinstance(node, (list, tuple, set)):
            return [walk(value, depth + 1) for value in node]
        return node if node is None or isinstance(node, (str, bool, int, float)) else str(node)

    return walk(node, 0)
