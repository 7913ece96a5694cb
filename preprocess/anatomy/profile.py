"""The profile of a body part: everything specific to it that preprocessing uses.

Each profile is defined in its own file (head.py); registry.py lists them, and `select.anatomy` names one.
Codes, columns and keys named for heads (`not_a_head`, `head_height_mm`, `brain_hu`) keep their names with
other profiles and then refer to that body part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocess.reasons import Reason

Range = tuple[float, float]
Shown = Callable[[np.ndarray, tuple[float, float, float], bool | None], dict[Reason, str]]
"""Findings of `VOXELS_SHOW` for a stored volume, int16 HU (D, H, W), with one line each. The other arguments

are the spacing, mm, and whether headers state a contrast agent."""
Deface = Callable[[np.ndarray, tuple[float, float, float]], np.ndarray]
"""Returns a copy of a volume, int16 HU (D, H, W), of a spacing in mm, without its face. Raises Rejection."""

VOXELS_SHOW = (Reason.NOT_A_HEAD, Reason.VESSELS_ENHANCED)
"""Findings from voxels rather than measures: another body part, and contrast."""

BESIDE = "beside"
"""The meaning of terms that name a neighbouring body part (`Anatomy.neighbours`)."""


@dataclass(frozen=True)
class Sizes:
    """Size limits along each axis (preprocess.anatomy.proportions), for planes counted from its top."""

    upper_mm: float
    """Millimetres from the top that are judged; wider parts may follow below."""
    wide_mm: Range
    """Left to right, median over planes."""
    long_mm: Range
    """Front to back."""
    max_across_mm: float
    """Diameter of a disc with the area of the largest plane."""
    wide_over_long: Range
    dome: Range | None = None
    """Distance from crown to shoulder over the square root of the largest plane's area; None for a body part
    without a dome."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A body part."""

    name: str
    """Its name in recipes, messages and tables of terms."""
    inside: str
    """The tissue in its depth, for messages."""
    sizes: Sizes
    max_lung: float
    """Largest share with the density of lung."""
    min_ml: float
    """A smaller largest object is not the body part."""
    joined_mm: float
    """Largest coverage of joined series along the direction of travel."""
    below_mm: float
    """A series that ends this much below another one of the same frame of reference lacks the top."""
    deep_mm: float
    """Depth below the surface from which the tissue is `inside`; `brain_hu` is measured there."""
    inside_hu: float
    """Expected value of `brain_hu`."""
    steady_mm: float
    """Distance from the top within which the outline is smooth, so that a jump between slices is motion."""
    window_hu: Range
    """Level and width of the display window, for images."""
    shown: Shown
    """The voxel checks."""
    deface: Deface | None = None
    """None for a body part without a face."""
    alike: bool = False
    """Whether sketches of brain folds (preprocess.qc.similar) distinguish two volumes of it."""
    meanings: tuple[str, ...] = ()
    """Meanings of the kinds body and part for it in the table of terms, besides its name."""
    neighbours: tuple[str, ...] = ()
    """Meanings of the kind body that are often examined with it: they count only in series texts."""
    words: tuple[str, ...] = ()
    """Rows of these kinds, of any meaning, name it if their term contains one of these."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """Its defaults for keys of `select` that existed in 0.1.0."""
    check: Mapping[str, Any] = field(default_factory=dict)
    """Its defaults for keys of `check` that existed in 0.1.0."""

    def reads(self, kind: str, term: str, meaning: str) -> tuple[str, str]:
        """Kind and meaning, for this body part, of a term of the kind body or part."""
        own = meaning in (self.name, *self.meanings) or any(word in term.casefold() for word in self.words)
        if kind == "part" and own:
            return kind, meaning
        if meaning in self.neighbours:
            return "body", BESIDE
        return "body", self.name if own else "other"
