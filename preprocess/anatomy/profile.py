"""What preprocessing must know of the part of the body that it makes volumes of.

A profile is a value in a file of its own (head.py); registry.py lists them, and `select.anatomy` names one.
Codes, columns and keys that were named for heads (`not_a_head`, `head_height_mm`, `brain_hu`) keep their
names: with another profile they are of its part of the body.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocess.reasons import Reason

Range = tuple[float, float]
Shown = Callable[[np.ndarray, tuple[float, float, float], bool | None], dict[Reason, str]]
"""Findings about a volume, int16 HU (D, H, W) as stored, with a line each: those of `VOXELS_SHOW`.

Its other arguments are the spacing, mm, and whether headers state a contrast agent."""
Deface = Callable[[np.ndarray, tuple[float, float, float]], np.ndarray]
"""A copy of a volume, int16 HU (D, H, W), of that spacing in mm, without a face. Raises Rejection."""

VOXELS_SHOW = (Reason.NOT_A_HEAD, Reason.VESSELS_ENHANCED)
"""Findings that are of the voxels, and of no measure: another part of the body, and an agent."""

BESIDE = "beside"
"""The meaning of terms that name a neighbour (`Anatomy.neighbours`)."""


@dataclass(frozen=True)
class Sizes:
    """How large it is along each axis (preprocess.anatomy.proportions), of the planes from its top on."""

    upper_mm: float
    """So many millimetres from the top are judged; below may follow what is wider."""
    wide_mm: Range
    """From left to right, the median over planes."""
    long_mm: Range
    """From front to back."""
    most_across_mm: float
    """Diameter of a disc as large as the largest plane."""
    wide_over_long: Range
    dome: Range | None = None
    """How far below its top it is as wide as a shoulder, over the root of its largest plane's area; None of
    what has no dome."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A part of the body."""

    name: str
    """In a recipe, in messages, and as a meaning in tables of terms."""
    inside: str
    """What lies in its depth, in messages."""
    sizes: Sizes
    most_lung: float
    """Share of it that may be as dense as lung."""
    least_ml: float
    """A largest object of less is none."""
    joined_mm: float
    """What series that are joined to one may cover along their travel."""
    below_mm: float
    """A series that ends this much below another one of its space lacks the top."""
    deep_mm: float
    """From here on beneath the surface lies `inside`: the measure `brain_hu` is of that depth."""
    inside_hu: float
    """What `brain_hu` should be about."""
    steady_mm: float
    """From the top down, where its outline is smooth enough that a jump between slices is motion."""
    window_hu: Range
    """Level and width in which people see it, in pictures."""
    shown: Shown
    """What its voxels show."""
    deface: Deface | None = None
    """None of what has no face."""
    alike: bool = False
    """Does the sketch of a brain's folds (preprocess.qc.alike) tell two of them apart?"""
    meanings: tuple[str, ...] = ()
    """Meanings of the kinds body and part that the table of terms has for it, beside its name."""
    neighbours: tuple[str, ...] = ()
    """Meanings of the kind body of what is often examined with it: only a series can be named for it."""
    words: tuple[str, ...] = ()
    """Rows of these kinds, of whatever meaning, name it if their term contains one of these."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """Its defaults of keys of `select`, of those that 0.1.0 had."""
    check: Mapping[str, Any] = field(default_factory=dict)
    """Its defaults of keys of `check`, likewise."""

    def reads(self, kind: str, term: str, meaning: str) -> tuple[str, str]:
        """Kind and meaning, for this part of the body, of a term of the kind body or part."""
        own = meaning in (self.name, *self.meanings) or any(word in term.casefold() for word in self.words)
        if kind == "part" and own:
            return kind, meaning
        if meaning in self.neighbours:
            return "body", BESIDE
        return "body", self.name if own else "other"
