"""The report's section on the volumes: counts, scanners, acquisition, rejections, pictures."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from launch.report.document import Block, Cell, Gallery, Picture, Section, Table, Text, cell, facts, table
from launch.report.figures import picture
from preprocess.tasks.collect import Summary
from shards import info
from shards.errors import FmctError
from shards.newer_version import read_error

ACQUISITION = {
    "kvp": "tube voltage, kV",
    "slice_thickness_mm": "slice thickness, mm",
    "slices": "slices of a series",
    "gantry_tilt_deg": "gantry tilt, degrees",
    "noise_hu": "noise, HU",
    "head_height_mm": "extent of the head, mm",
}
"""Columns of the manifest that describe the acquisition, with their names in the report."""
COLUMNS = ("key", "patient_key", "scanner", "kernel_class", "defaced", *ACQUISITION)
"""The columns that are read from the manifest; the others are many and large."""
DECIDED = {"select": "by headers", "build": "by pixels"}


class Data:
    """The output folder of `fmct preprocess`."""

    def __init__(self, folder: Path) -> None:
        """Read it; raises FmctError that names a missing file and the command that writes it."""
        try:
            self.summary = Summary.model_validate_json((folder / "summary.json").read_bytes())
            self.volumes = pq.read_table(folder / "manifest.parquet", columns=[*COLUMNS])
            self.rejected = pq.read_table(
                folder / "quarantine.parquet", columns=["scanner", "stage", "reason"]
            )
        except FileNotFoundError as error:
            raise FmctError(f"{error.filename}: missing; `fmct preprocess` writes it at the end") from None
        except (ValidationError, pa.ArrowInvalid) as error:
            problem = "damaged, or written by another version; run `fmct preprocess` again"
            raise read_error(folder, error, problem) from None
        self.datasets = [info.read(folder / form) for form in self.summary.stored_bytes]
        self._montage = folder / "qc" / "montage.png"

    def section(self) -> Section:
        """Counts, scanners, acquisition, rejections and the montage."""
        blocks: list[Block] = [
            facts(
                "Volumes",
                {
                    "volumes": self.summary.volumes,
                    "patients": self.summary.patients,
                    "studies": self.summary.studies,
                    "series in the catalog": self.summary.series,
                    "series rejected": self.summary.rejected_series,
                    "series merged into another series' volume": self.summary.joined_series,
                    "flagged volumes": self.summary.flagged_volumes,
                    **{f"stored as {form}, GB": n / 1e9 for form, n in self.summary.stored_bytes.items()},
                },
            ),
            self._scanners(),
            self._acquisition(),
        ]
        return Section("Data", (*blocks, *self._left_out(), self._pictures()))

    def limits(self) -> list[str]:
        """The limits of these volumes, as sentences."""
        count = len(self.volumes)
        scanner, most = Counter(self.volumes["scanner"].to_pylist()).most_common(1)[0]
        share = len(self.rejected) / self.summary.series
        items = [
            f"{count:,} volumes of {self.summary.patients:,} patients; {most / count:.0%} of the volumes are "
            f"from one scanner type ({scanner}).",
            f"{share:.0%} of the series were rejected: similar scans are not represented.",
            "Preprocessing does not keep age, sex, origin and diagnosis, so results by group are unknown.",
        ]
        if (defaced := self.volumes["defaced"].to_pylist().count(True)) not in (0, count):
            items.append(f"{defaced:,} of the volumes are defaced: features may encode this.")
        return items

    def _scanners(self) -> Table:
        names = self.volumes["scanner"].to_pylist()
        patients: dict[str, set[str]] = {name: set() for name in names}
        for name, patient in zip(names, self.volumes["patient_key"].to_pylist(), strict=True):
            patients[name].add(patient)
        kernels = Counter(zip(names, self.volumes["kernel_class"].to_pylist(), strict=True))
        counts, refused = Counter(names), Counter(self.rejected["scanner"].to_pylist())
        kinds = sorted({kernel for _, kernel in kernels})
        return table(
            "Scanners, by vendor and product line",
            ("scanner", "volumes", "patients", *(f"{kind} kernel" for kind in kinds), "rejected series"),
            (
                (
                    cell(name),
                    cell(counts[name]),
                    cell(len(patients.get(name, ()))),
                    *(cell(kernels[name, kind]) for kind in kinds),
                    cell(refused[name]),
                )
                for name in sorted({*counts, *refused}, key=lambda name: (-counts[name], name))
            ),
        )

    def _acquisition(self) -> Table:
        rows = []
        for column, name in ACQUISITION.items():
            values = self.volumes[column].cast(pa.float64()).to_numpy()
            known = values[~np.isnan(values)]
            if known.size:
                spread = np.quantile(known, (0.05, 0.5, 0.95))
                numbers = (known.min(), *spread, known.max())
                rows.append((cell(name), *(cell(float(v)) for v in numbers), cell(len(values) - known.size)))
        return table(
            "Acquisition and dimensions of the volumes",
            ("quantity", "minimum", "5 %", "median", "95 %", "maximum", "unknown"),
            rows,
        )

    def _left_out(self) -> list[Block]:
        """Quarantined series, slices left out of volumes, and flags."""
        pairs = zip(self.rejected["stage"].to_pylist(), self.rejected["reason"].to_pylist(), strict=True)
        rejections = Counter(pairs)
        groups = (
            (
                "Quarantined series, by reason",
                ("reason", "decided", "series", "share of catalog"),
                [
                    (cell(_words(reason)), cell(DECIDED[stage]), cell(count), self._share(count))
                    for (stage, reason), count in rejections.most_common()
                ],
                "No series was rejected.",
            ),
            (
                "Slices left out of volumes, by reason",
                ("reason", "slices"),
                _counts(self.summary.dropped_slices_by_reason),
                "No slice was left out of a volume.",
            ),
            (
                "Flags of the checks (these volumes are stored with the flag)",
                ("flag", "volumes"),
                _counts(self.summary.flagged_by_reason),
                "No stored volume is flagged.",
            ),
        )
        return [table(title, columns, rows) if rows else Text(none) for title, columns, rows, none in groups]

    def _share(self, count: int) -> Cell:
        return cell(count / self.summary.series, ".1%")

    def _pictures(self) -> Block:
        if not self._montage.is_file():
            return Text(f"No montage of the volumes: {self._montage.name} is missing.")
        alt = "Montage of stored volumes: axial, coronal and sagittal slices of each in the brain window"
        caption = (
            "Stored volumes with the first digits of their keys: central axial, coronal and sagittal "
            "slices, brain window (level 40, width 80 HU)."
        )
        if not all(self.volumes["defaced"].to_pylist()):
            caption += " They show the outline of faces: keep this page where the scans may be stored."
        return Gallery((Picture(picture(self._montage, alt), caption),), wide=True)


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _counts(counts: dict[str, int]) -> list[tuple[Cell, Cell]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(cell(_words(reason)), cell(count)) for reason, count in ordered]
