"""Evaluation of the maps of many scans against masks, as a table."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from fmct_hpc.probe.statistics.bootstrap import Interval
from fmct_hpc.relevance.maps import ScanMaps
from fmct_hpc.relevance.measure import Figures, Truth, centre_prior, means
from fmct_hpc.relevance.patch_grid import PatchGrid

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


@dataclass
class _Seen:
    """Measurements for a label and method, in the order of volumes."""

    patients: list[str] = field(default_factory=list)
    called: list[bool] = field(default_factory=list)
    maps: dict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Evaluation:
    """Collects measurements of scans; `table` returns the means."""

    masked: Masked
    tolerance_mm: float = TOLERANCE_MM
    seen: dict[tuple[str, str], _Seen] = field(default_factory=lambda: defaultdict(_Seen))

    def add(self, found: ScanMaps, beside: ScanMaps | None = None) -> int:
        """Measure a scan's maps of labels with a mask; returns the number of these labels.

        beside: maps of another classifier, to be measured too.
        """
        truths = {task: self.masked(found.scan.key, task, found.grid) for task in {t for t, _ in found.maps}}
        for (task, method), values in found.maps.items():
            truth = truths[task]
            if truth is None:
                continue
            seen, answer = self.seen[task, method], found.answers.get(task)
            seen.patients.append(found.scan.patient_key or found.scan.key)
            seen.called.append(bool(answer and answer.positive))
            others = {"tissue": found.tissue, "centre": centre_prior(found.grid.shape)}
            for name, other in {OWN: values, **others}.items():
                seen.maps[name].append(truth.measure(other, self.tolerance_mm))
            seen.maps["random"].append(truth.of_random(self.tolerance_mm))
            seen.maps["greatest"].append(truth.greatest(self.tolerance_mm))
            if beside is not None:
                theirs = self.masked(found.scan.key, task, beside.grid)
                assert theirs is not None  # the same mask on other patches
                seen.maps[BESIDE].append(theirs.measure(beside.maps[task, method], self.tolerance_mm))
        return sum(truth is not None for truth in truths.values())

    def table(self) -> pa.Table:
        """One row per label, group of volumes (all with a mask; those classified positive), method and map.

        share, pointed: means over volumes with 95 % intervals over patients; for maps other than the
        classifier's, also the classifier's gain over them, on the same resamples.
        """
        return pa.Table.from_pylist(list(self._rows()), SCHEMA)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for (task, method), seen in self.seen.items():
            called = np.array(seen.called)
            for group, chosen in {"all": np.ones_like(called), "called positive": called}.items():
                places = np.flatnonzero(chosen)
                if not len(places):
                    continue
                _, patients = np.unique(np.array(seen.patients)[places], return_inverse=True)
                figures = np.array([[seen.maps[name][i] for name in seen.maps] for i in places], np.float64)
                drawn = means(figures.reshape(len(places), -1), patients, RESAMPLES)
                pairs = dict(zip(seen.maps, zip(drawn[::2], drawn[1::2], strict=True), strict=True))
                for name, these in pairs.items():
                    row: dict[str, Any] = {"task": task, "group": group, "method": method, "map": name}
                    row |= {"volumes": len(places), "patients": int(patients.max()) + 1}
                    row["tolerance_mm"] = self.tolerance_mm
                    for figure, own, this in zip(_FIGURES, pairs[OWN], these, strict=True):
                        row |= _columns(figure, this.interval(CONFIDENCE))
                        if name != OWN:
                            row |= _columns(f"{figure}_gain", (own - this).interval(CONFIDENCE))
                    yield row


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
