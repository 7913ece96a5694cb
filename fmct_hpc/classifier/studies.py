"""The scans of a study together: for classifiers whose samples are studies."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.classifier.record import StudyRecord
from fmct_hpc.inference.readers import Scan
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.kinds import Kind
from fmct_hpc.probe.series import ROLES, Series, over_series
from fmct_hpc.probe.statistics.scored import FloatArray
from shards.errors import FmctError

SEVERAL_PATIENTS = "several_patients: other series of its study bear another Patient ID"
UNSAID = "unknown_thick"
"""Role of a scan whose reader does not say it."""


class Encoded(NamedTuple):
    """A scan, and what the heads read of it."""

    scan: Scan
    inputs: NDArray[np.floating[Any]]


def studies(scans: Iterable[Scan], best: bool) -> Iterator[Scan]:
    """The scans, each of a numbered study; with `best` the first of each study alone.

    A scan of which nothing says whose study it is, as of a NIfTI file, is a study of its own.
    """
    last: object = None
    for number, scan in enumerate(scans):
        study = scan.study if scan.study is not None else -1 - number
        if best and (scan.path, study) == last:
            continue
        last = (scan.path, study)
        yield scan._replace(study=study)


def by_study(encoded: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """The scans of each study, which come one behind another; before an FmctError those before it."""
    held: list[Encoded] = []
    failed: FmctError | None = None
    stream = iter(encoded)
    while True:
        try:
            one = next(stream, None)
        except FmctError as error:
            one, failed = None, error
        if held and (one is None or _study(one) != _study(held[0])):
            yield held
            held = []
        if one is None:
            break
        held.append(one)
    if failed:
        raise failed


def _study(one: Encoded) -> tuple[object, ...]:
    return one.scan.path, one.scan.study


def roles_of(study: Sequence[Encoded]) -> tuple[str, ...]:
    """Roles of a study's scans, in their order."""
    return tuple(one.scan.role or UNSAID for one in study)


def missing(study: Sequence[Encoded], record: StudyRecord) -> tuple[str, ...]:
    """Roles that studies had in training and this one lacks."""
    return tuple(role for role in record.roles if role not in roles_of(study))


def predicted(study: Sequence[Encoded], head: Head, kind: Kind, record: StudyRecord) -> FloatArray:
    """Predictions of one study, (1,) or (1, P)."""
    if record.sample == "best":
        return head.predicted(study[0].inputs[None], kind)
    numbers = np.array([ROLES.index(role) for role in roles_of(study)])
    series = Series(np.stack([one.inputs for one in study]), numbers, np.zeros(1, np.int64))
    if record.series_pool is not None:
        return head.predicted(over_series(series, record.series_pool), kind)
    return kind.predictions(head.raw_of_studies(series))


def flags_of(study: Sequence[Encoded]) -> tuple[str, ...] | None:
    """What the checks found in any of the scans."""
    told = [one.scan.flags for one in study if one.scan.flags is not None]
    return tuple(dict.fromkeys(flag for flags in told for flag in flags)) if told else None
