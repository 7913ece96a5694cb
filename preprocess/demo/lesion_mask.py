"""Where a synthetic head's bleeds are: what changes when one is left out."""

from dataclasses import replace

import numpy as np

from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import Head
from preprocess.demo.lesions import Bleed

LEAST_HU = 5.0
"""Change that counts as lesion: above the rounding of what is painted, below blood's 15 HU over brain."""


def lesion_mask(points_lps: np.ndarray, head: Head, kinds: frozenset[Bleed] | None = None) -> np.ndarray:
    """Which points, LPS mm (..., 3), show a bleed of `kinds` (all by default) or its oedema: bool (...)."""
    left = tuple(lesion for lesion in head.lesions if kinds is not None and lesion.kind not in kinds)
    return np.abs(head_hu(points_lps, head) - head_hu(points_lps, replace(head, lesions=left))) >= LEAST_HU
