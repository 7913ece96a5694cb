"""One series to make, and its files."""

from dataclasses import dataclass

import numpy as np

from preprocess.demo.anatomy import head_hu
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
        self, plane: Plane, kernel: Kernel, encoding: Encoding, rng: np.random.Generator
    ) -> np.ndarray:
        """Stored values (rows, columns) of a slice: the anatomy at its pixels, then kernel and encoding."""
        clean = head_hu(plane.points(), self.study.head)
        fracture = self.study.fracture
        if fracture and shows(kernel.sharp, plane.thickness):
            paint_fracture(clean, plane, self.study.head, fracture)
        return encoding.store(kernel.apply(clean, rng), plane.inside_circle())


@dataclass(frozen=True)
class File:
    """One file of a series: its bytes, and the facts that layouts use for its name."""

    number: int
    sop_uid: str
    content: bytes
    dropped: Reason | None = None
    """Why preprocessing should leave this file out of the series' volume."""
