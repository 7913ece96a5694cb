"""On heads with known brain and skull: the face is removed, every voxel of brain and bone is kept."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import ndimage

from preprocess.anatomy.deface import BONE_HU, deface
from preprocess.demo.anatomy import floor_height, head_hu
from preprocess.demo.head import Head, draw_anatomy
from preprocess.reasons import Rejection
from preprocess.volume.resample import Grid

SKIN_FROM_BONE_MM = 4.0
"""Skin nearer to bone than this has nothing under it to blank."""


@dataclass
class Truth:
    """A volume and the tissue of its voxels."""

    hu: np.ndarray
    brain: np.ndarray
    vault: np.ndarray
    skin: np.ndarray
    """The outermost 2 mm of the face, from the orbits to the mouth."""
    local: tuple[np.ndarray, ...]
    spacing: tuple[float, float, float]


def truth(head: Head, spacing: float) -> Truth:
    """A head at `spacing` mm; brain is any voxel with its tissue, vault one that is a fifth bone."""
    shape = np.rint(np.array([190, 230, 190]) / spacing).astype(int)
    grid = Grid(np.array([95.0, 112.0, -85.0]), (spacing,) * 3, (int(shape[0]), int(shape[1]), int(shape[2])))
    points = np.argwhere(np.ones(shape, bool)) @ grid.affine[:3, :3].T + grid.origin
    hu = head_hu(points, head)
    matter = replace(head, grey=head.grey + 90, white=head.white + 90, csf=head.csf + 90)
    bone = replace(head, cortical_bone=head.cortical_bone + 500, diploe=head.diploe + 500)
    x, y, z = head.local(points)
    cranial = z > floor_height((x, y, z))
    skin = (hu > -500) & (z > -60) & (z < -14) & (y < -60) & (np.abs(x) < 50)
    noise = np.random.default_rng(0).normal(0, 4, hu.shape)
    filled = {
        "hu": np.rint(hu + noise).astype(np.int16),
        "brain": (head_hu(points, matter) > hu + 1) & cranial,
        "vault": (head_hu(points, bone) > hu + 100) & cranial,
        "skin": skin,
    }
    volumes: dict[str, np.ndarray] = {name: values.reshape(shape) for name, values in filled.items()}
    outside = ndimage.distance_transform_edt(volumes["hu"] > -500, grid.spacing)
    volumes["skin"] &= outside <= max(2.0, spacing)
    return Truth(**volumes, local=tuple(v.reshape(shape) for v in (x, y, z)), spacing=grid.spacing)


CASES = [
    pytest.param((0, (0, 0, 0), 1.5), id="1.5 mm"),
    pytest.param((1, (14, 3, -5), 2.0), id="chin down"),
    pytest.param((2, (-14, -4, 6), 2.0), id="chin up"),
    pytest.param((3, (0, 0, 0), 3.0), id="3 mm"),
]


@pytest.fixture(scope="module", params=CASES)
def known(request: pytest.FixtureRequest) -> Truth:
    patient, rotation, spacing = request.param
    return truth(replace(draw_anatomy(0, patient), rotation=rotation), spacing)


@pytest.fixture(scope="module")
def defaced(known: Truth) -> np.ndarray:
    return deface(known.hu, known.spacing)


def test_brain_and_bone_are_unchanged(known: Truth, defaced: np.ndarray) -> None:
    changed = defaced != known.hu
    volume_ml = np.prod(known.spacing) / 1000
    assert known.brain.sum() * volume_ml > 1000
    assert known.vault.sum() * volume_ml > 300
    assert not (changed & known.brain).any()
    assert not (changed & known.vault).any()
    assert not (changed & (known.hu > BONE_HU)).any()


def test_only_the_face_is_changed(known: Truth, defaced: np.ndarray) -> None:
    changed = defaced != known.hu
    assert (defaced[changed] == -1000).all()
    tissue = changed & (known.hu > -500)
    _, y, z = known.local
    assert y[tissue].max() < 30, "nothing behind the head's middle"
    assert z[tissue].max() < 30, "nothing above the brow"
    assert 60 < tissue.sum() * np.prod(known.spacing) / 1000 < 500


def test_the_skin_of_the_face_is_removed_and_the_surface_recedes(known: Truth, defaced: np.ndarray) -> None:
    from_bone = ndimage.distance_transform_edt(known.hu <= BONE_HU, known.spacing)
    skin = known.skin & (from_bone > SKIN_FROM_BONE_MM)
    assert skin.sum() * np.prod(known.spacing) > 3000
    assert (defaced[skin] == -1000).mean() > 0.995
    recession = ndimage.distance_transform_edt(defaced < -500, known.spacing)[skin]
    assert np.percentile(recession, 10) >= 2.8
    assert np.median(recession) >= 4.0


def test_the_eyes_are_removed(known: Truth, defaced: np.ndarray) -> None:
    x, y, z = known.local
    globes = ((np.abs(x) - 32) ** 2 + (y + 77) ** 2 + (z + 27) ** 2 < 9**2) & (known.hu < BONE_HU)
    assert (defaced[globes] == -1000).mean() > 0.9


def body(lowest: float, highest: float = 105.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head on a neck and shoulders, from `lowest` to `highest` mm above its centre, at 3 mm.

    Returns HU, the skin of the face, and each plane's height. Muscle fills neck and shoulders from side to
    side under 8 mm of fat, round a spine and a trachea.
    """
    edge = 3.0
    shape = round((highest - lowest) / edge), 84, 84
    grid = Grid(np.array([126.0, 126.0, lowest]), (edge,) * 3, shape)
    points = np.argwhere(np.ones(shape, bool)) @ grid.affine[:3, :3].T + grid.origin
    hu = head_hu(points, draw_anatomy(0, 0)).reshape(shape)
    x, y, z = np.moveaxis(points.reshape(*shape, 3), -1, 0)
    skin = (hu > -500) & (z > -60) & (z < -14) & (y < -60) & (np.abs(x) < 50)
    skin &= ndimage.distance_transform_edt(hu > -500, grid.spacing) <= edge
    for top, bottom, half_width, half_depth in ((-100, -170, 60, 62), (-170, -400, 125, 85)):
        part = (z < top) & (z >= bottom)
        for inset, value in ((0, -90), (8, 55)):
            hu[part & ((x / (half_width - inset)) ** 2 + ((y - 20) / (half_depth - inset)) ** 2 < 1)] = value
        hu[part & (np.hypot(x, y - 30) < 14)] = 500
        hu[part & (np.hypot(x, y + 5) < 9)] = -1000
    hu = np.rint(hu + np.random.default_rng(0).normal(0, 4, hu.shape)).astype(np.int16)
    skin &= ndimage.distance_transform_edt(hu <= BONE_HU, grid.spacing) > SKIN_FROM_BONE_MM
    return hu, skin, z


@pytest.mark.parametrize(
    ("lowest", "highest"),
    [(-85, 105), (-150, 105), (-170, 105), (-210, 105), (-240, 105), (-280, 105), (-280, 45)],
)
def test_the_face_is_removed_with_any_amount_of_trunk(lowest: float, highest: float) -> None:
    """Shoulders weigh twice what a brain does, and the vertex may be missing."""
    hu, skin, z = body(lowest, highest)
    assert skin.sum() > 100
    defaced = deface(hu, (3.0, 3.0, 3.0))
    assert (defaced[skin] == -1000).mean() > 0.995
    changed = (defaced != hu) & (hu > -500)
    assert z[changed].max() < 30, "nothing above the brow"
    assert np.array_equal(defaced[:, :40], hu[:, :40]), "nothing behind the head's middle"


@pytest.mark.parametrize(
    ("highest", "spacing"),
    [pytest.param(-45, 3.0, id="neck alone"), pytest.param(105, 4.2, id="a brain of four liters")],
)
def test_implausible_brains_are_refused(highest: float, spacing: float) -> None:
    hu, _, _ = body(-280, highest)
    with pytest.raises(Rejection, match="deface_failed"):
        deface(hu, (spacing,) * 3)


@pytest.mark.parametrize("side", ["left", "front"])
def test_the_brain_in_a_skull_open_on_one_side_is_found(side: str) -> None:
    head = truth(draw_anatomy(0, 0), 3.0)
    x, y, z = head.local
    gap = (z > 10) & (np.abs(y) < 70) & (x > 0) if side == "left" else (z > 30) & (y < -20)
    head.hu[gap & (head.hu > 100)] = 40
    defaced = deface(head.hu, head.spacing)
    assert not ((defaced != head.hu) & head.brain).any()
    from_bone = ndimage.distance_transform_edt(head.hu <= BONE_HU, head.spacing)
    assert (defaced[head.skin & (from_bone > SKIN_FROM_BONE_MM)] == -1000).mean() > 0.995


def test_a_head_without_a_brain_is_refused() -> None:
    hollow = np.full((60, 80, 60), -1000, np.int16)
    hollow[5:55, 5:75, 5:55] = 900
    hollow[10:50, 10:70, 10:50] = -1000
    with pytest.raises(Rejection, match="deface_failed"):
        deface(hollow, (3, 3, 3))
