"""How each dataset is read: one function per benchmark, named in a profile as `reader:`.

Layouts, counts and traps follow the contract sheet in docs/datasets.md. Every reader maps labels by class id (wnid),
never by position in a listing: a folder with a subset of the classes must still get the right labels. The form
(folders, tar archives, Parquet or webdataset shards) is found out, ids are the same in every form that keeps file
names, and no code that comes with a dataset is ever run.
"""

from beyond_accuracy.readers.bundled import digits
from beyond_accuracy.readers.corrupted import imagenet_c
from beyond_accuracy.readers.family import class_folder, imagenet, imagenet_hard, imagenet_labels, imagenet_v2
from beyond_accuracy.readers.files import IMAGE_SUFFIXES, VAL_ID, image_id
from beyond_accuracy.readers.probe import splits
from beyond_accuracy.readers.stimuli import cue_conflict, pug_imagenet
from beyond_accuracy.readers.tables import parquet, read_parquet

READERS = {
    "class_folder": class_folder,
    "cue_conflict": cue_conflict,
    "digits": digits,
    "imagenet": imagenet,
    "imagenet_c": imagenet_c,
    "imagenet_hard": imagenet_hard,
    "imagenet_labels": imagenet_labels,
    "imagenet_v2": imagenet_v2,
    "parquet": parquet,
    "pug_imagenet": pug_imagenet,
    "splits": splits,
}

__all__ = [
    "IMAGE_SUFFIXES",
    "READERS",
    "VAL_ID",
    "class_folder",
    "cue_conflict",
    "digits",
    "image_id",
    "imagenet",
    "imagenet_c",
    "imagenet_hard",
    "imagenet_labels",
    "imagenet_v2",
    "parquet",
    "pug_imagenet",
    "read_parquet",
    "splits",
]
