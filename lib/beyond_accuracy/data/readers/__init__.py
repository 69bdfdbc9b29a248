"""How each dataset is read: one function per benchmark, named in a profile as `reader:`.

Layouts, counts and traps follow the contract sheet in docs/datasets.md. Every reader maps labels by class id (wnid),
never by position in a listing: a folder with a subset of the classes must still get the right labels. The form
(folders, tar archives, Parquet or webdataset shards) is found out, ids are the same in every form that keeps file
names, and no code that comes with a dataset is ever run.
"""

import json
from importlib import import_module
from pkgutil import iter_modules

from beyond_accuracy.base.errors import InputError
from beyond_accuracy.base.paths import resolve
from beyond_accuracy.base.profile import DatasetSpec, unknown
from beyond_accuracy.data.dataset import READERS, ImageDataset

MAX_LOADED = 64
LOADED: dict[str, ImageDataset] = {}

for found in iter_modules(__path__):  # each registers its readers
    import_module(f"{__name__}.{found.name}")


def load_dataset(spec: DatasetSpec) -> ImageDataset:
    """Read a dataset as its profile entry says; read once per process. Symbolic links are followed anywhere."""
    key = f"{resolve(spec.path)}\n{json.dumps(vars(spec), sort_keys=True)}"
    if key not in LOADED:
        if spec.reader not in READERS:
            raise InputError(f"{spec.name}: {unknown('reader', spec.reader, READERS)}")
        try:
            dataset = READERS[spec.reader](spec)
        except OSError as error:
            where = error.filename or resolve(spec.path)
            raise InputError(f"{spec.name}: {where} cannot be read ({error.strerror or error})") from error
        if len(LOADED) >= MAX_LOADED:
            del LOADED[next(iter(LOADED))]
        LOADED[key] = dataset.limit(spec.limit)
    return LOADED[key]
