"""Morphology with face neighbours, compared with SciPy's."""

import numpy as np
import pytest
from scipy import ndimage

from preprocess.anatomy.neighbours import dilated, eroded, filled

IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)
SHAPES = [(1, 1, 1), (1, 5, 1), (4, 1, 6), (7, 9, 8), (12, 30, 25)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.65, 0.9, 1.0])
def test_results_are_those_of_scipy(shape: tuple[int, ...], share: float) -> None:
    rng = np.random.default_rng(len(SHAPES) * shape[0] + round(100 * share))
    mask, within = rng.random(shape) < share, rng.random(shape) < 0.7
    before = mask.copy()
    for rounds in (1, 2, 5):
        np.testing.assert_array_equal(dilated(mask, rounds), ndimage.binary_dilation(mask, iterations=rounds))
        expected = ndimage.binary_dilation(mask, iterations=rounds, mask=within)
        np.testing.assert_array_equal(dilated(mask, rounds, within), expected)
    np.testing.assert_array_equal(eroded(mask), ndimage.binary_erosion(mask, border_value=1))
    np.testing.assert_array_equal(filled(mask), ndimage.binary_fill_holes(mask, IN_PLANE))
    np.testing.assert_array_equal(mask, before)
