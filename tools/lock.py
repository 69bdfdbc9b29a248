"""Writes `constraints.txt` from the installed environment: `make lock`."""

import subprocess
import sys

from beyond_accuracy.base.paths import project_root

HEADER = """\
# Exact versions everything was tested with (Python 3.11, Linux x86_64); `make lock` writes it anew.
# Used as pip constraints: a package that is not installed on a platform is simply not constrained there.
# Versions, not hashes: pip's hash mode refuses a project installed editable and every file that has no hash, and files
# differ by platform and, for torch without CUDA, by index. To pin files too, install what `pip-compile
# --generate-hashes -c constraints.txt` writes for your platform with `--require-hashes`, then the project with
# `--no-deps`.
"""


def main() -> None:
    """Freeze the environment; versions of packages that are not installed here (other extras) are kept."""
    path = project_root() / "constraints.txt"
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pins = dict(line.split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line)
    pins |= dict(line.split("==") for line in frozen if "==" in line)
    lines = [f"{name}=={pins[name]}" for name in sorted(pins, key=str.lower)]
    path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
