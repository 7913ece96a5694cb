"""Enhanced vessels are detected, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from enhanced_heads import SPACING, STEP, scanned

from preprocess.anatomy.brain import coarse
from preprocess.anatomy.head_voxels import shown
from preprocess.anatomy.vessels import enhanced_vessels, vessels
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from preprocess.reader import read_array
from preprocess.reasons import Reason
from shards.voxels import INDEX_STEPS


@pytest.mark.parametrize("number", range(6))
def test_enhanced_heads_are_distinguished_from_plain_ones(number: int) -> None:
    """Heads of all three scan modes, with zero to two bleeds, calcifications, and metal in two."""
    plain, enhanced = (scanned(number, agent) for agent in (False, True))
    assert shown(plain, SPACING, None) == {}
    assert list(shown(enhanced, SPACING, None)) == [Reason.VESSELS_ENHANCED]
    assert list(shown(enhanced, SPACING, False)) == [Reason.VESSELS_ENHANCED]
    assert shown(enhanced, SPACING, True) == {}


def test_a_new_scan_has_the_flag() -> None:
    affine = np.eye(4)
    affine[:3, :3] = INDEX_STEPS.T * STEP
    actual = [read_array(scanned(0, agent), affine, None, None).flags for agent in (False, True)]
    assert [Reason.VESSELS_ENHANCED in flags for flags in actual] == [False, True]


def test_the_length_of_vessels_is_reported() -> None:
    """The anterior cerebral artery rises 36 mm and runs back 33 mm from the base."""
    voxels = scanned(0, True)
    assert 34 <= max(vessels(voxels, SPACING, coarse(voxels, SPACING))) <= 110


def test_coarse_voxels_give_no_decision() -> None:
    voxels, spacing = scanned(0, True)[::2], (4.0, 2.0, 2.0)
    assert enhanced_vessels(voxels, spacing, coarse(voxels, spacing)) is None


def test_the_generator_draws_vessels_with_the_given_blood() -> None:
    head = draw_anatomy(3, 1)
    axis = np.arange(-60, 61, 3.0)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    plain, enhanced = (head_hu(points, replace(head, enhanced_hu=hu)) for hu in (None, 250.0))
    changed = plain != enhanced
    assert 0.0005 < changed.mean() < 0.02
    assert (enhanced[changed] >= plain[changed]).mean() > 0.95
