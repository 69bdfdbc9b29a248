import numpy as np
from sklearn.datasets import load_digits

from beyond_accuracy.base.profile import DatasetSpec
from beyond_accuracy.data.readers.tables import digits


def test_digits_are_scans_with_their_labels():
    dataset = digits(DatasetSpec("digits", "digits"))
    source = load_digits()
    assert len(dataset) == 1797 and np.array_equal(dataset.targets, source.target)
    assert dataset.classes is None and len(set(dataset.ids)) == 1797
    image = dataset.image(5)
    assert image.size == (64, 64) and image.mode == "RGB"
    shrunk = np.asarray(image.convert("L").resize((8, 8), 4), float)  # box filter
    assert np.corrcoef(shrunk.ravel(), -source.images[5].ravel())[0, 1] > 0.97  # dark ink
    assert digits(DatasetSpec("digits", "digits")).fingerprint == dataset.fingerprint
