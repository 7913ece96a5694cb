"""The synthetic findings of a study's heads, drawn near the threshold of visibility.

Each finding is drawn independently of the others and of the scanner, so that none predicts another. Sizes and
contrasts are listed in `DIFFICULTY`; they are chosen close to the scanners' noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from preprocess.demo.head import Head
from preprocess.demo.lesions import Bleed, Lesion
from preprocess.demo.shapes import Coordinates, ellipsoid, ramp
from preprocess.demo.streams import Stream, generator


class Finding(StrEnum):
    """A kind of finding; the value is the label column."""

    HAEMATOMA = "haematoma"
    SUBDURAL = "subdural"
    SUBARACHNOID = "subarachnoid"
    INFARCT = "infarct"
    CALCIFICATION = "calcification"
    SHIFT = "midline_shift"
    HYDROCEPHALUS = "hydrocephalus"


DIFFICULTY = {
    Finding.HAEMATOMA: "radii 11 to 18 mm, 52 to 68 HU in brain of 30 to 38, a dark rim",
    Finding.SUBDURAL: "10 to 18 mm thick over 60 to 90 degrees of one side, 50 to 62 HU",
    Finding.SUBARACHNOID: "in sulci within 80 to 110 mm of a random point, 50 to 64 HU instead of 4 to 9",
    Finding.INFARCT: "radii 26 to 42 mm in one hemisphere, 8 to 14 HU below the surrounding brain",
    Finding.CALCIFICATION: "one mass of 9 to 14 mm radius, 90 to 160 HU, outside plexus and pineal gland",
    Finding.SHIFT: "9 to 16 mm between the lateral ventricles, 0 at the skull",
    Finding.HYDROCEPHALUS: "ventricles widened by a factor of 1.3 to 1.6; healthy ones vary by 0.75 to 1.4",
}
"""Size and contrast of each finding, for the report."""


@dataclass(frozen=True)
class Subject:
    """A head with its findings."""

    head: Head
    """The head, including bleeds and ventricle size; the other findings are in the fields below."""
    findings: frozenset[Finding]
    infarcts: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...] = field(default=())
    """Centre and radii in mm in the head's axes, and the decrease in HU."""
    nodules: tuple[tuple[tuple[float, ...], float, float], ...] = field(default=())
    """Centre, radius in mm, HU."""
    shift_mm: float = 0.0


def draw_findings(
    seed: int, number: int, head: Head, prevalence: float, without: Finding | None = None
) -> Subject:
    """Draw the findings of head `number`; each except `without` is present with probability `prevalence`."""
    subject = Subject(head, frozenset())
    for stream, finding in enumerate(Finding):
        rng = generator(seed, Stream.LESION, number, stream)
        if rng.random() < prevalence and finding is not without:
            subject = _DRAW[finding](subject, rng)
            subject = replace(subject, findings=subject.findings | {finding})
    return subject


def displaced(at: Coordinates, subject: Subject) -> Coordinates:
    """The position, before the midline shift, of the tissue at a point in the head's axes (mm).

    The skull does not move: the shift decreases to 0 before the middle fossa's floor and the vault.
    """
    if not subject.shift_mm:
        return at
    x, y, z = at
    radius2 = (x / 60) ** 2 + (y / 78) ** 2 + ((z - 25) / 42) ** 2
    return x - np.float32(subject.shift_mm) * np.maximum(1 - radius2, 0) ** 2, y, z


def paint_findings(hu: np.ndarray, at: Coordinates, subject: Subject) -> None:
    """Add the findings that are not lesions of the demo's anatomy to `hu` (N,), in place; `at`: head axes."""
    for centre, radii, drop in subject.infarcts:
        # Changes only brain, not CSF, blood or bone.
        brain = ramp(hu - 20, 6) * ramp(48 - hu, 6)
        hu -= brain * ramp(ellipsoid(at, centre, radii), 5) * np.float32(drop)
    for centre, radius, value in subject.nodules:
        hu += ramp(ellipsoid(at, centre, 3 * (radius,)), 2) * (np.float32(value) - hu)


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _with_lesion(subject: Subject, lesion: Lesion) -> Subject:
    return replace(subject, head=replace(subject.head, lesions=(*subject.head.lesions, lesion)))


def _deep(rng: np.random.Generator) -> tuple[float, ...]:
    """A random point deep in a hemisphere, mm."""
    return _side(rng) * rng.uniform(14, 42), rng.uniform(-48, 50), rng.uniform(-2, 48)


def _haematoma(subject: Subject, rng: np.random.Generator) -> Subject:
    x, y, z = _deep(rng)
    a, b, c = rng.uniform(11, 18, 3)
    hu, phase = rng.uniform(52, 68), rng.uniform(0, 2 * np.pi)
    return _with_lesion(subject, Lesion(Bleed.INTRAPARENCHYMAL, hu, (x, y, z), (a, b, c), phase))


def _subdural(subject: Subject, rng: np.random.Generator) -> Subject:
    centre = (_side(rng) * 60.0, rng.uniform(-35, 35), rng.uniform(5, 50))
    size = (rng.uniform(10, 18), rng.uniform(60, 90), 0.0)
    return _with_lesion(subject, Lesion(Bleed.SUBDURAL, rng.uniform(50, 62), centre, size, 0.0))


def _subarachnoid(subject: Subject, rng: np.random.Generator) -> Subject:
    centre = (_side(rng) * rng.uniform(0, 60), rng.uniform(-65, 65), rng.uniform(-18, 60))
    spread = (rng.uniform(80, 110), 0.0, 0.0)
    return _with_lesion(subject, Lesion(Bleed.SUBARACHNOID, rng.uniform(50, 64), centre, spread, 0.0))


def _infarct(subject: Subject, rng: np.random.Generator) -> Subject:
    centre = (_side(rng) * rng.uniform(25, 50), rng.uniform(-50, 55), rng.uniform(0, 50))
    radii = tuple(rng.uniform(26, 42, 3))
    return replace(subject, infarcts=((centre, radii, rng.uniform(8, 14)),))


def _calcification(subject: Subject, rng: np.random.Generator) -> Subject:
    return replace(subject, nodules=((_deep(rng), rng.uniform(9, 14), rng.uniform(90, 160)),))


def _shift(subject: Subject, rng: np.random.Generator) -> Subject:
    return replace(subject, shift_mm=_side(rng) * rng.uniform(9, 16))


def _hydrocephalus(subject: Subject, rng: np.random.Generator) -> Subject:
    wider = subject.head.ventricles * rng.uniform(1.3, 1.6)
    return replace(subject, head=replace(subject.head, ventricles=float(wider)))


_DRAW: dict[Finding, Callable[[Subject, np.random.Generator], Subject]] = {
    Finding.HAEMATOMA: _haematoma,
    Finding.SUBDURAL: _subdural,
    Finding.SUBARACHNOID: _subarachnoid,
    Finding.INFARCT: _infarct,
    Finding.CALCIFICATION: _calcification,
    Finding.SHIFT: _shift,
    Finding.HYDROCEPHALUS: _hydrocephalus,
}
