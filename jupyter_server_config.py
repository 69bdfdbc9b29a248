"""JupyterLab as `make lab` starts it: notebooks that git tracks are saved without outputs, as they are committed.

To keep a run, save it under another name.
"""

import json
import os
import subprocess

from nbconvert.preprocessors import ClearMetadataPreprocessor, ClearOutputPreprocessor
from nbformat import from_dict


def without_results(model, path, contents_manager, **_):
    """Cut what a run left out of a notebook of git's that is about to be written."""
    file = os.path.join(contents_manager.root_dir, path)
    asked = ["git", "-C", os.path.dirname(file), "ls-files", "--error-unmatch", os.path.basename(file)]
    if model["type"] != "notebook" or subprocess.run(asked, capture_output=True).returncode:
        return
    keep = ClearMetadataPreprocessor(preserve_cell_metadata_mask={"tags"}, clear_notebook_metadata=False)
    notebook, _ = ClearOutputPreprocessor().preprocess(from_dict(model["content"]), {})
    notebook, _ = keep.preprocess(notebook, {})
    with open(file, encoding="utf-8") as handle:
        before = json.load(handle)
    model["content"] = from_dict({**notebook, **{key: before[key] for key in before if key != "cells"}})


c.FileContentsManager.pre_save_hook = without_results  # noqa: F821 (Jupyter's own name)
