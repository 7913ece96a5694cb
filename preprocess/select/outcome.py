"""Selection's decisions on a study, and the outcome of each series after volumes were built."""

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from preprocess.dicom.catalog import Series
from preprocess.reasons import Reason, Rejection, Stage
from preprocess.select.candidate import Candidate
from preprocess.select.series import Selected
from shards.errors import FmctError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesDecision:
    """One series, judged by its headers and by the rest of its study."""

    series: Series
    rejection: Rejection | None = None
    """Why it is not a candidate alone; it may still be part of a joined candidate."""
    usable: Selected | None = None
    """The instances that passed their own rules, if any."""

    @property
    def judged(self) -> Series:
        """The series reduced to the images that pass their own rules, if any do."""
        if not self.usable:
            return self.series
        kept = tuple(image for group in self.usable.positions for image in group)
        return replace(self.series, instances=kept)


@dataclass(frozen=True)
class Selection:
    """Selection's decisions on a study, before volumes are built."""

    series: tuple[SeriesDecision, ...]
    """One per series of the study, in input order."""
    candidates: tuple[Candidate, ...]
    """Candidates for volumes, best first (`Candidate.__str__` gives the deciding values). A series without a
    rejection is in one, a part of a joined candidate in two."""


@dataclass(frozen=True)
class Outcome(SeriesDecision):
    """The outcome of one series."""

    candidate: Candidate | None = None
    """The candidate that became a volume, of this series alone or joined with others; else it is rejected."""
    stage: Stage = "select"
    chosen: Candidate | None = None
    """The candidate chosen instead: the rejection is not_best_of_study or an incomplete head."""


def with_rejections(
    judged: Iterable[SeriesDecision], rejections: Iterable[tuple[Series, Rejection]]
) -> tuple[SeriesDecision, ...]:
    """`judged`, of which the series of `rejections` have these."""
    by_key = {one.key: rejection for one, rejection in rejections}
    return tuple(
        replace(one, rejection=by_key[one.series.key]) if one.series.key in by_key else one for one in judged
    )


def as_rejection(error: Exception, name: str = "a series") -> Rejection:
    """The rejection for an exception: a copy, or internal_error for a defect of this package or a codec.

    A raised exception keeps its traceback, whose frames hold the pixels, as long as its outcome is kept.
    A defect's message may quote the file, so only its class is reported, and its location is logged. Failures
    of the machine, which are not the series' fault, are raised again.
    """
    if isinstance(error, FmctError | MemoryError | OSError):
        raise error
    if isinstance(error, Rejection):
        return type(error)(error.reason, error.detail)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    log.error("%s: %s in %s: please report it", name, type(error).__name__, where)
    return Rejection(Reason.INTERNAL_ERROR, type(error).__name__)
