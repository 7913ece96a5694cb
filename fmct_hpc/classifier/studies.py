"""Grouping scans by study, for classifiers whose samples are studies."""

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

SEVERAL_PATIENTS = "several_patients: other series of its study have another Patient ID"
DEFAULT_ROLE = "unknown_thick"
"""Role of a scan if the reader does not provide one."""


class Encoded(NamedTuple):
    """A scan with the inputs of the heads."""

    scan: Scan
    inputs: NDArray[np.floating[Any]]


def studies(scans: Iterable[Scan], best: bool) -> Iterator[Scan]:
    """Yield the scans with study numbers; with `best`, only the first scan of each study.

    A scan without study information, as from a NIfTI file, forms a separate study.
    """
    last: object = None
    for number, scan in enumerate(scans):
        study = scan.study if scan.study is not None else -1 - number
        if best and (scan.path, study) == last:
            continue
        last = (scan.path, study)
        yield scan._replace(study=study)


def by_study(encoded: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """Group consecutive scans by study; an FmctError is raised after the groups read before it."""
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
    return tuple(one.scan.role or DEFAULT_ROLE for one in study)


def missing(study: Sequence[Encoded], record: StudyRecord) -> tuple[str, ...]:
    """Roles present in training and missing in this study."""
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
    """Findings of the checks in any of the scans; None if no scan was checked."""
    checked = [one.scan.flags for one in study if one.scan.flags is not None]
    return tuple(dict.fromkeys(flag for flags in checked for flag in flags)) if checked else None
