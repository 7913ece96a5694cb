"""Evaluation of the maps of many scans against masks, as a table."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fmct_hpc.probe.statistics.bootstrap import Interval
from fmct_hpc.relevance.maps import ScanMaps
from fmct_hpc.relevance.measure import Figures, Truth, centre_prior, means
from fmct_hpc.relevance.patch_grid import PatchGrid
from shards.closed import Closed

TOLERANCE_MM = 15.0
"""For the pointing game: Zhang et al. 2018 use 15 pixels of photographs; 15 mm is a small haematoma."""
RESAMPLES, CONFIDENCE = 2000, 0.95
OWN, BESIDE = "classifier", "beside"
_FIGURES = ("share", "pointed")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "group", "method", "map")),
        *((name, pa.int32()) for name in ("volumes", "patients")),
        ("tolerance_mm", pa.float64()),
        *(
            (f"{figure}{part}", pa.float64())
            for figure in _FIGURES
            for part in ("", "_low", "_high", "_gain", "_gain_low", "_gain_high")
        ),
    ]
)

Masked = Callable[[str, str, PatchGrid], Truth | None]
"""The mask for a volume's key and a label, on patches; None if there is none."""


class Measured(Closed):
    """Measurements of one scan's map of a label, by one method."""

    task: str
    method: str
    patient: str
    called: bool
    """Whether the classifier calls the scan positive."""
    maps: dict[str, Figures]
    """By map: the classifier's, and those it is compared with."""


@dataclass(frozen=True)
class Evaluation:
    """Measures scans against their masks; `table` returns the means over scans."""

    masked: Masked
    tolerance_mm: float = TOLERANCE_MM
    digest: str = ""
    """Changes with the masks."""

    def of_scan(self, found: ScanMaps, beside: ScanMaps | None = None) -> list[Measured]:
        """Measurements of a scan's maps, of the labels with a mask.

        beside: maps of another classifier, to be measured too.
        """
        truths = {task: self.masked(found.scan.key, task, found.grid) for task in {t for t, _ in found.maps}}
        measured = []
        for (task, method), values in found.maps.items():
            truth = truths[task]
            if truth is None:
                continue
            answer = found.answers.get(task)
            others = {OWN: values, "tissue": found.tissue, "centre": centre_prior(found.grid.shape)}
            maps = {name: truth.measure(other, self.tolerance_mm) for name, other in others.items()}
            maps["random"] = truth.of_random(self.tolerance_mm)
            maps["greatest"] = truth.greatest(self.tolerance_mm)
            if beside is not None:
                theirs = self.masked(found.scan.key, task, beside.grid)
                assert theirs is not None  # the same mask on other patches
                maps[BESIDE] = theirs.measure(beside.maps[task, method], self.tolerance_mm)
            measured.append(
                Measured(
                    task=task,
                    method=method,
                    patient=found.scan.patient_key or found.scan.key,
                    called=bool(answer and answer.positive),
                    maps=maps,
                )
            )
        return measured

    def table(self, measured: Iterable[Measured]) -> pa.Table:
        """One row per label, group of volumes (all with a mask; those classified positive), method and map.

        share, pointed: means over volumes with 95 % intervals over patients; for maps other than the
        classifier's, also the classifier's gain over them, on the same resamples.
        """
        return pa.Table.from_pylist(list(_rows(measured, self.tolerance_mm)), SCHEMA)


def _rows(measured: Iterable[Measured], tolerance_mm: float) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for one in measured:
        groups[one.task, one.method].append(one)
    for (task, method), every in groups.items():
        for group, seen in {"all": every, "called positive": [one for one in every if one.called]}.items():
            if not seen:
                continue
            _, patients = np.unique([one.patient for one in seen], return_inverse=True)
            names = list(seen[0].maps)
            figures = np.array([[one.maps[name] for name in names] for one in seen], np.float64)
            drawn = means(figures.reshape(len(seen), -1), patients, RESAMPLES)
            pairs = dict(zip(names, zip(drawn[::2], drawn[1::2], strict=True), strict=True))
            for name, these in pairs.items():
                row: dict[str, Any] = {"task": task, "group": group, "method": method, "map": name}
                row |= {"volumes": len(seen), "patients": int(patients.max()) + 1}
                row["tolerance_mm"] = tolerance_mm
                for figure, own, this in zip(_FIGURES, pairs[OWN], these, strict=True):
                    row |= _columns(figure, this.interval(CONFIDENCE))
                    if name != OWN:
                        row |= _columns(f"{figure}_gain", (own - this).interval(CONFIDENCE))
                yield row


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
