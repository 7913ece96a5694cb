"""The head profile: sizes, limits, terms, voxel checks and defacing."""

import numpy as np

from preprocess.anatomy.profile import Anatomy, Sizes
from preprocess.reasons import Reason


def _shown(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float], enhanced_by_header: bool | None
) -> dict[Reason, str]:
    """Voxel checks for brain and enhanced vessels; imported here, since a configuration needs no SciPy."""
    from preprocess.anatomy.head_voxels import shown

    return shown(voxels, spacing_mm, enhanced_by_header)


def _deface(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    from preprocess.anatomy.deface import deface

    return deface(voxels, spacing_mm)


HEAD = Anatomy(
    name="head",
    inside="brain",
    sizes=Sizes(
        upper_mm=100.0,  # neck and shoulders may follow below
        # Men's heads are 152 ± 5 mm in breadth and 197 ± 7 mm in length (Gordon et al. 1989, ANSUR); ears,
        # nose, hair, a bandage and the pads of a head holder add to that, and an adult's chest is wider. A
        # newborn's at term are 93 and 115 mm, of which the planes about the widest leave nine tenths; half an
        # adult's is less.
        wide_mm=(76.0, 230.0),
        long_mm=(92.0, 280.0),
        max_across_mm=255.0,  # an ellipse of the greatest breadth and length
        # 0.7 to 0.9 in adults, 0.6 and 1.05 at the ends of what skulls grow to; an axis of half or double
        # length leaves 0.4 or 1.5.
        wide_over_long=(0.55, 1.1),
        # A sphere's is 0.28, the generator's heads have 0.28 to 0.32, with half or double their height 0.14
        # to 0.16 and 0.42 to 0.49.
        dome=(0.18, 0.40),
    ),
    max_lung=0.1,  # edges and hair are 2 to 4 % of a head, lungs a third of a chest
    min_ml=200.0,  # a neonate's head measures over 300 ml
    joined_mm=250.0,  # about a large adult's chin to vertex; more is a head and a neck
    # Head scans end within about 20 mm of the vertex; face, sinus or neck scans end at the orbits or below,
    # 80 mm or more beneath it.
    below_mm=40.0,
    deep_mm=28.0,  # deeper than 28 mm of scalp, skull and cortex is brain, from any side of the upper head
    inside_hu=35.0,  # between white (30) and grey matter (40)
    steady_mm=90.0,  # to above an adult's orbits; below, nose, ears and bone change from slice to slice
    window_hu=(40.0, 80.0),  # the brain window, used by radiologists and in the reference's channels
    shown=_shown,
    deface=_deface,
    alike=True,
    meanings=("head", "part"),
    neighbours=("neck",),
    select={
        "min_slices": 10,  # a head at the coarsest clinical spacing, 10 mm, still has over 10 slices
        "max_slices": 1500,  # 300 mm at 0.2 mm
        "min_coverage_mm": 80.0,  # half of an adult head's height; less is a partial scan
        "max_coverage_mm": 400.0,  # a head with the whole neck; more is a body scan
    },
    check={
        "min_head_height_mm": 80.0,  # as min_coverage_mm, but of the head, not of the scan
        "max_vertex_share": 0.4,  # 20 mm cut off a sphere of 80 mm radius leave 0.44
        "max_edge_share": 0.03,  # a nose or ear that touches the field's edge gives 1 %
        "max_air_share": 0.7,  # an ellipsoid fills 52 % of its box, so with the margin about half is air
        "brain_hu": (0.0, 80.0),  # the brain window: a brain whose median is outside is not visible
        # The 99th percentile: an adult's skull gives 1000 to 1500, a neonate's thin one 500; higher values
        # are metal or a wrong slope.
        "bone_hu": (500.0, 2500.0),
    },
)
