"""One series to make, and its files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from preprocess.demo.anatomy import POINTS_AT_ONCE, head_hu
from preprocess.demo.fractures import paint_fracture, shows
from preprocess.demo.plan import SeriesPlan, StudyPlan
from preprocess.demo.scanners import Encoding, Kernel
from preprocess.demo.stack import Plane
from preprocess.demo.streams import Stream, generator
from preprocess.demo.writer import SeriesFacts
from preprocess.reasons import Reason


@dataclass(frozen=True)
class SeriesJob:
    """A series of a study's plan, with the common facts of its files."""

    seed: int
    study: StudyPlan
    plan: SeriesPlan
    facts: SeriesFacts

    def noise(self) -> np.random.Generator:
        """The series' noise stream."""
        return generator(self.seed, Stream.NOISE, self.study.index, self.facts.number)

    def render(
        self, planes: Sequence[Plane], kernel: Kernel, encoding: Encoding, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """Stored values (rows, columns) of each slice: the anatomy at its pixels, kernel, encoding."""
        together = max(1, POINTS_AT_ONCE // self.study.matrix**2)
        for first in range(0, len(planes), together):
            some = planes[first : first + together]
            clean = head_hu(np.stack([plane.points() for plane in some]), self.study.head)
            fracture = self.study.fracture
            for hu, plane in zip(clean, some, strict=True):
                if fracture and shows(kernel.sharp, plane.thickness):
                    paint_fracture(hu, plane, self.study.head, fracture)
            yield from encoding.store(kernel.apply(clean, rng), some[0].inside_circle())


@dataclass(frozen=True)
class File:
    """One file of a series: its bytes, and the facts that layouts use for its name."""

    number: int
    sop_uid: str
    content: bytes
    dropped: Reason | None = None
    """Why preprocessing should leave this file out of the series' volume."""
