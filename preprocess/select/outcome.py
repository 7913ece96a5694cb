"""What selection decides about a study, as values; and what became of each series once volumes were built."""

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
class Judged:
    """One series by its headers, and by what else its study holds."""

    series: Series
    rejection: Rejection | None = None
    """Why it is no candidate of its own; it may be a part of a joined one all the same."""
    usable: Selected | None = None
    """The instances that passed the rules on their own, if any did."""

    @property
    def judged(self) -> Series:
        """The series, of which only the images are left that pass the rules on their own, if any do."""
        if not self.usable:
            return self.series
        kept = tuple(image for group in self.usable.positions for image in group)
        return replace(self.series, instances=kept)


@dataclass(frozen=True)
class Selection:
    """What selection decides about a study: no volume is built yet."""

    series: tuple[Judged, ...]
    """One a series of the study, in the order in which they were given."""
    candidates: tuple[Candidate, ...]
    """What may become a volume, the best first; a text of each states why (`Candidate.__str__`). A series
    without a rejection is in one, a part of a joined one in two."""


@dataclass(frozen=True)
class Outcome(Judged):
    """What became of one series."""

    candidate: Candidate | None = None
    """What became a volume: of this series alone or, joined, of others too. Else there is a rejection."""
    stage: Stage = "select"
    chosen: Candidate | None = None
    """What was chosen in its stead: the rejection is not_best_of_study, or what it lacks of the head."""


def with_rejections(
    judged: Iterable[Judged], rejections: Iterable[tuple[Series, Rejection]]
) -> tuple[Judged, ...]:
    """`judged`, of which the series of `rejections` have these."""
    found = {one.key: rejection for one, rejection in rejections}
    return tuple(
        replace(one, rejection=found[one.series.key]) if one.series.key in found else one for one in judged
    )


def as_rejection(error: Exception, name: str = "a series") -> Rejection:
    """What an exception says about a series: a rejection, or that ours or a codec's defect met it.

    A defect's message may quote the file, so only its class is reported, and its location is logged. The
    machine's failures, which are not the series', are raised again.
    """
    if isinstance(error, FmctError | MemoryError | OSError):
        raise error
    if isinstance(error, Rejection):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    log.error("%s: %s in %s: please report it", name, type(error).__name__, where)
    return Rejection(Reason.INTERNAL_ERROR, type(error).__name__)
