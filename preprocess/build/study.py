"""Building the volumes of a study: of the best candidate that can be built and shows the head, or of all."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from preprocess.build.result import BuildResult
from preprocess.dicom.catalog import SeriesKey
from preprocess.reasons import IncompleteError, Reason, Rejection
from preprocess.select.candidate import Candidate
from preprocess.select.outcome import Outcome, Selection

Make = Callable[[Candidate, bool], BuildResult]
"""Makes the volume of a candidate. If the second argument is true, an incomplete head is rejected with
IncompleteError."""


class StudyBuilder:
    """Iterate over it to build a study's volumes, one at a time; `outcomes` then has one result per series.

    The best candidate is first; if it cannot be built, the next one replaces it. If the head is incomplete in
    its volume, candidates that may show more of it are tried; if it is complete in none, the best is used.
    With `keep: best` that is the only volume. With `keep: all`, every other candidate then becomes a volume,
    even if incomplete.
    """

    def __init__(self, selection: Selection, keep: Literal["best", "all"], make: Make) -> None:
        self._candidates, self._keep, self._make = selection.candidates, keep, make
        self._outcomes = {
            one.series.key: Outcome(one.series, one.rejection, one.usable) for one in selection.series
        }

    def __iter__(self) -> Iterator[tuple[Candidate, BuildResult]]:
        """Each candidate that is tried, with its result; an incomplete one may be yielded again."""
        chosen: Candidate | None = None
        queue = list(self._candidates)
        incomplete: dict[tuple[SeriesKey, ...], Candidate] = {}
        while queue:
            candidate = queue.pop(0)
            if any(self._outcomes[key].candidate for key in candidate.keys):
                continue  # already part of a volume
            is_incomplete = candidate.keys in incomplete
            if chosen and self._keep == "best":
                self._reject_for(candidate, chosen, is_incomplete)
                continue
            more = [one for one in queue if one.keys not in incomplete and one.may_show_more_than(candidate)]
            whole = not chosen and not is_incomplete and bool(more or incomplete)
            made = self._make(candidate, whole)
            self._record(candidate, made.rejection)
            if not made.rejection:
                chosen = chosen or candidate
            elif isinstance(made.rejection, IncompleteError):
                # Next are candidates that may show more, then the incomplete ones as they are.
                incomplete[candidate.keys] = candidate
                queue = _each_once([*more, *incomplete.values(), *queue])
            yield candidate, made
            del made  # otherwise two volumes are in memory

    def outcomes(self) -> list[Outcome]:
        """The outcome of each series, in the selection's order."""
        return list(self._outcomes.values())

    def _record(self, candidate: Candidate, rejection: Rejection | None) -> None:
        if rejection:
            self._set_outcome(candidate.keys, rejection=rejection, stage="build")
        else:
            self._set_outcome(candidate.keys, candidate=candidate, rejection=None, stage="select")

    def _reject_for(self, candidate: Candidate, chosen: Candidate, is_incomplete: bool) -> None:
        """Reject a candidate because another was chosen; series that were tried keep their rejection."""
        rejection = Rejection(Reason.NOT_BEST_OF_STUDY, f"{candidate}; chosen: {chosen}")
        for key in candidate.keys:
            outcome = self._outcomes[key]
            if outcome.stage == "select":
                self._outcomes[key] = replace(outcome, rejection=rejection, chosen=chosen)
            elif is_incomplete:
                self._outcomes[key] = replace(outcome, chosen=chosen)

    def _set_outcome(self, keys: Iterable[SeriesKey], **result: Any) -> None:
        for key in keys:
            self._outcomes[key] = replace(self._outcomes[key], **result)


def _each_once(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Without duplicates, in order of first occurrence."""
    return list({one.keys: one for one in candidates}.values())


def expected_outcomes(selection: Selection, keep: Literal["best", "all"]) -> list[Outcome]:
    """The outcome of each series if every candidate can be built and shows the head."""
    builder = StudyBuilder(selection, keep, lambda candidate, whole: BuildResult())
    for _ in builder:
        pass
    return builder.outcomes()
