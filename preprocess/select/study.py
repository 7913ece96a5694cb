"""Selection of a study: what its series are to one another, and which of them become volumes."""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from preprocess.dicom.catalog import Instance, Series
from preprocess.dicom.geometry import AXIAL_DEG, has_geometry, is_axial
from preprocess.reasons import IncompleteError, Reason, Rejection, Stage
from preprocess.select.candidate import Candidate, ranked
from preprocess.select.divided import SeriesKey, key
from preprocess.select.image_kind import kind
from preprocess.select.join import find_joins
from preprocess.select.refused import refusal_of
from preprocess.select.rules import SelectConfig
from preprocess.select.scattered import told
from preprocess.select.series import Selected, require_stack, usable
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
    """What was chosen in its stead: the rejection is not_best_of_study, or what it lacks of the head."""
    usable: Selected | None = None
    """The instances that passed the rules on their own, if any did."""

    @property
    def judged(self) -> Series:
        """The series, of which only the images are left that pass the rules on their own, if any do."""
        if not self.usable:
            return self.series
        kept = tuple(image for group in self.usable.positions for image in group)
        return replace(self.series, instances=kept)


def studies(series: Iterable[Series]) -> list[list[Series]]:
    """Series by study, in the order of each study's first.

    Patient ID belongs to the study, because careless anonymisation repeats study UIDs.
    """
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        groups.setdefault((one.patient_id, one.study_uid), []).append(one)
    return list(groups.values())


Build = Callable[[Candidate, bool], Rejection | None]
"""Makes the volume of a candidate, or says why it cannot. Where the second is true it makes none of a head
that is not whole, and returns an IncompleteError."""


def select_study(
    series: Sequence[Series],
    config: SelectConfig,
    build: Build,
    refused: Mapping[SeriesKey, Rejection] = MappingProxyType({}),
) -> list[Outcome]:
    """Decide about all series of one study; one outcome a series, in their order.

    `build` makes the volume of a candidate, the best one first, or says why it cannot; then the next one
    takes its place. Where the head is not whole in its volume, those that may show more of it are tried; if
    it is whole in none, the best one stays. With `keep: best` that is all; with `keep: all` each other
    candidate becomes a volume after it, as it is.
    refused: series that are no patient's alone (preprocess.select.divided).
    """
    outcomes = {
        id(one): Outcome(one, rejection=refused[key(one)]) if key(one) in refused else _by_itself(one, config)
        for one in series
    }

    def become(sources: Iterable[Series], **result: Any) -> None:
        outcomes.update({id(one): replace(outcomes[id(one)], **result) for one in sources})

    try:
        candidates = _candidates(outcomes, become, config)
    except Exception as error:  # a defect of ours costs this study, and no other
        rejection = as_rejection(error, "a study")
        become([o.series for o in outcomes.values() if not o.rejection], rejection=rejection)
        return list(outcomes.values())
    _build_best(candidates, outcomes, become, config, build)
    return told(list(outcomes.values()))


def _build_best(
    candidates: Iterable[Candidate],
    outcomes: Mapping[int, Outcome],
    become: Callable[..., None],
    config: SelectConfig,
    build: Build,
) -> None:
    """Build candidates, the best first, until one is a volume, or all; `become` is called for each."""
    chosen: Candidate | None = None
    queue = deque(candidates)
    incomplete: dict[int, Candidate] = {}
    while queue:
        candidate = queue.popleft()
        sources = candidate.sources
        if any(outcomes[id(one)].candidate for one in sources):
            continue  # a part of what is a volume already
        if chosen and config.keep == "best":
            rejection = Rejection(Reason.NOT_BEST_OF_STUDY, f"{candidate}; chosen: {chosen}")
            untried = [one for one in sources if outcomes[id(one)].stage == "select"]
            become(untried, rejection=rejection, chosen=chosen)
            if id(candidate) in incomplete:
                become(sources, chosen=chosen)
            continue
        as_it_is = bool(chosen) or id(candidate) in incomplete
        more = [one for one in queue if id(one) not in incomplete and one.may_show_more_than(candidate)]
        failure = build(candidate, not as_it_is and bool(more or incomplete))
        if not failure:
            become(sources, candidate=candidate, rejection=None, stage="select")
            chosen = chosen or candidate
            continue
        become(sources, rejection=failure, stage="build")
        if isinstance(failure, IncompleteError):  # then come those that may show more, then these as they are
            incomplete[id(candidate)] = candidate
            queue = deque({id(one): one for one in (*more, *incomplete.values(), *queue)}.values())


def _candidates(
    outcomes: dict[int, Outcome], become: Callable[..., None], config: SelectConfig
) -> list[Candidate]:
    """Candidates for a volume, the best first; `become` is called for the series that are rejected here."""
    for one, rejection in _reformats(list(outcomes.values())):
        become([one], rejection=rejection)
    singles = [(o.series, o.usable) for o in outcomes.values() if o.usable and not o.rejection]
    joins = find_joins(singles, config) if config.join else []
    alone: list[Candidate] = []
    for one, selected in singles:
        try:
            require_stack(selected.slices, config)
            alone.append(Candidate(one, selected))
        except Exception as error:
            become([one], rejection=as_rejection(error))
    # A part of a joined head is a candidate of its own only in case that the whole cannot be built.
    parts = {id(source) for join in joins for source in join.sources}
    candidates = ranked([*joins, *(one for one in alone if id(one.series) not in parts)], config)
    candidates += ranked([one for one in alone if id(one.series) in parts], config)
    return candidates


def _by_itself(one: Series, config: SelectConfig) -> Outcome:
    refusal = refusal_of(one)
    if refusal:
        return Outcome(one, rejection=refusal)
    try:
        return Outcome(one, usable=usable(one, config))
    except Exception as error:
        return Outcome(one, rejection=as_rejection(error))


def _reformats(study: Sequence[Outcome]) -> Iterator[tuple[Series, Rejection]]:
    """Coronal and sagittal series of a space in which an axial acquisition exists.

    The table moves along the patient's axis, so what a scanner acquires is axial, tilted by some
    degrees; where the study holds that, another plane through the same Frame of Reference was computed.
    """
    for outcome in study:
        one = outcome.series
        degrees = outcome.usable.slices.obliquity_deg if outcome.usable else 0.0
        if degrees > AXIAL_DEG and any(
            _is_axial_acquisition(other.series, one.frame_of_reference_uid) for other in study
        ):
            detail = f"{degrees:.0f} degrees off an axial series of its frame of reference"
            yield one, Rejection(Reason.REFORMAT, detail)


def _is_axial_acquisition(series: Series, frame_of_reference_uid: str) -> bool:
    return series.frame_of_reference_uid == frame_of_reference_uid != "" and any(
        instance.modality == "CT" and kind(instance) is None and _lies_axial(instance)
        for instance in series.instances
    )


def _lies_axial(instance: Instance) -> bool:
    try:
        return has_geometry(instance) and is_axial(instance, AXIAL_DEG)
    except Rejection:
        return False


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
