"""Selection of a study: what its series are to one another, and which of them become volumes."""

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.candidate import Candidate, ranked
from preprocess.catalog import Instance, Series
from preprocess.geometry import AXIAL_DEG, has_geometry, is_axial
from preprocess.image_kind import kind
from preprocess.join import find_joins
from preprocess.reasons import Reason, Rejection, Stage
from preprocess.rules import SelectConfig
from preprocess.select import Selected, require_stack, usable
from shards.errors import FmctError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of one series."""

    series: Series
    candidate: Candidate | None = None
    """What became a volume: of this series alone or, joined, of others too."""
    rejection: Rejection | None = None
    """Else why it did not."""
    stage: Stage = "select"
    chosen: Candidate | None = None
    """What was chosen in its stead, where the rejection is not_best_of_study."""


def studies(series: Iterable[Series]) -> list[list[Series]]:
    """Series by study, in the order of each study's first.

    Patient ID belongs to the study, because careless anonymisation repeats study UIDs.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        groups.setdefault((one.patient_id, one.study_uid), []).append(one)
    return list(groups.values())


def select_study(
    series: Sequence[Series], config: SelectConfig, build: Callable[[Candidate], Rejection | None]
) -> list[Outcome]:
    """Decide about all series of one study; one outcome a series, in their order.

    `build` makes the volume of a candidate, the best one first, or says why it cannot; then the next one
    takes its place. With `keep: best` one volume is made, with `keep: all` one of every candidate.
    """
    candidates, rejected = _candidates(series, config)
    outcomes = {id(one): Outcome(one, rejection=rejected.get(id(one))) for one in series}
    chosen: Candidate | None = None
    for candidate in candidates:
        sources = candidate.sources
        if any(outcomes[id(one)].candidate for one in sources):
            continue  # a part of what is a volume already
        if chosen and config.keep == "best":
            rejection = Rejection(Reason.NOT_BEST_OF_STUDY, f"{candidate}; chosen: {chosen}")
            untried = [one for one in sources if outcomes[id(one)].stage == "select"]
            outcomes |= {id(one): Outcome(one, rejection=rejection, chosen=chosen) for one in untried}
            continue
        failure = build(candidate)
        if failure:
            outcomes |= {id(one): Outcome(one, rejection=failure, stage="build") for one in sources}
        else:
            outcomes |= {id(one): Outcome(one, candidate) for one in sources}
            chosen = chosen or candidate
    return list(outcomes.values())


def _candidates(
    series: Sequence[Series], config: SelectConfig
) -> tuple[list[Candidate], dict[int, Rejection]]:
    """What may become volumes, best first, and why other series (by id) may not."""
    rejected: dict[int, Rejection] = {}
    singles: list[tuple[Series, Selected]] = []
    for one in series:
        try:
            singles.append((one, usable(one, config)))
        except Exception as error:
            rejected[id(one)] = as_rejection(error)
    singles = _without_reformats(singles, series, rejected)
    joins = find_joins([s for s in singles if len(s[1].positions) > 1], config) if config.join else []
    alone = []
    for one, selected in singles:
        try:
            require_stack(selected.slices, config)
            alone.append(Candidate(one, selected))
        except Exception as error:
            rejected[id(one)] = as_rejection(error)
    # A part of a joined head is a candidate of its own only in case that the whole cannot be built.
    parts = {id(source) for join in joins for source in join.sources}
    whole = [one for one in alone if id(one.series) not in parts]
    return ranked(joins + whole, config) + ranked(
        [o for o in alone if id(o.series) in parts], config
    ), rejected


def _without_reformats(
    singles: list[tuple[Series, Selected]], study: Sequence[Series], rejected: dict[int, Rejection]
) -> list[tuple[Series, Selected]]:
    """Leave out coronal and sagittal series of a space in which an axial acquisition exists.

    The table moves along the patient's axis, so what a scanner acquires is axial, tilted by some
    degrees; where the study holds that, another plane through the same Frame of Reference was computed.
    """
    kept = []
    for one, selected in singles:
        slices = selected.slices
        oblique = slices.obliquity_deg > AXIAL_DEG
        if oblique and any(_is_axial_acquisition(other, one.frame_of_reference_uid) for other in study):
            detail = f"{slices.obliquity_deg:.0f} degrees off an axial series of its frame of reference"
            rejected[id(one)] = Rejection(Reason.REFORMAT, detail)
        else:
            kept.append((one, selected))
    return kept


def _is_axial_acquisition(series: Series, frame_of_reference_uid: str) -> bool:
    return (
        series.modality == "CT"
        and series.frame_of_reference_uid == frame_of_reference_uid != ""
        and any(kind(instance) is None and _lies_axial(instance) for instance in series.instances)
    )


def _lies_axial(instance: Instance) -> bool:
    try:
        return has_geometry(instance) and is_axial(instance, AXIAL_DEG)
    except Rejection:
        return False


def as_rejection(error: Exception, name: str = "a series") -> Rejection:
    """What an exception says about a series: a rejection, or that ours or a codec's defect met it.

    A defect's message may quote the file, so only its class is told, and its place is logged. The
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
