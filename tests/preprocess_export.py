"""A small export for the tests of preprocessing: spherical heads in 20 slices, and series to reject."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicom_files import Acquisition, axial, ct_image, save
from pydicom.uid import UID

from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.scan.run import scan
from preprocess.select.rules import SelectConfig
from shards.format_names import ShardFormat

KEY = "0123456789abcdef" * 4
ROOT = "1.2.276.0.7230010.3.99"
"""Prefix of all UIDs of this export."""
CENTRE = np.array([2.0, 8.0, 60.0])
"""Centre of every head, LPS mm, before a study shifts its slices."""
SERIES = 3
"""Series per study: one that becomes a volume, a localizer, and one that is too short or truncated."""


def head(points: np.ndarray) -> np.ndarray:
    """HU of a head at patient points (..., 3): brain of 35 HU in a skull of 900 HU, radius 62 mm."""
    radius = np.linalg.norm(points - CENTRE, axis=-1)
    waves = 8 * np.sin(points[..., 0] / 9) * np.cos(points[..., 2] / 11)
    return np.where(radius < 55, 35 + waves, np.where(radius < 62, 900, -1000))


@dataclass(frozen=True)
class Export:
    """A scanned export and its key file."""

    folder: Path
    catalog: Path
    key_file: Path

    def config(
        self,
        workers: int = 1,
        formats: tuple[ShardFormat, ...] = ("zarr", "webdataset"),
        spacing: float = 4.0,
        shard_mib: int = 1,
    ) -> PreprocessConfig:
        return PreprocessConfig(
            key_file=self.key_file,
            workers=workers,
            select=SelectConfig(keep="all"),  # builds every series, so that each has an outcome
            grid=GridConfig(spacing_mm=(spacing, spacing, spacing)),
            output=OutputConfig(formats=formats, shard_mib=shard_mib),
        )

    def rescan(self) -> None:
        scan(self.folder, self.catalog)


def make_export(where: Path, studies: int = 12) -> Export:
    """`studies` studies of `SERIES` series under `where`; 12 make 2 tasks of a MiB (see `Export.config`)."""
    for study in range(studies):
        write_study(where / "dicom", study)
    key_file = where / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    export = Export(where / "dicom", where / "catalog.parquet", key_file)
    export.rescan()
    return export


def write_study(folder: Path, study: int) -> None:
    """A head (study and position vary), a localizer, and a short or a truncated series."""
    acquisition = axial(slices=20, gap=6.0, start=(-70 + study, -60, 0))
    write_series(folder, study, 1, acquisition)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(folder, study, 2, axial(slices=1), ImageType=scout)
    if study % 2:
        write_series(folder, study, 3, axial(slices=5))
    else:
        for path in write_series(folder, study, 3, axial(slices=20, gap=6.0)):
            path.write_bytes(path.read_bytes()[:-2000])


def write_series(
    folder: Path, study: int, series: int, acquisition: Acquisition, **attributes: object
) -> list[Path]:
    """One file per slice; identifiers are made from the numbers of study and series."""
    paths = []
    for number, position in enumerate(acquisition.positions):
        identity = {
            "PatientID": f"patient {study // 2}",
            "StudyInstanceUID": f"{ROOT}.{study}",
            "SeriesInstanceUID": f"{ROOT}.{study}.{series}",
            "SOPInstanceUID": f"{ROOT}.{study}.{series}.{number}",
        }
        stored = np.rint(head(acquisition.points(position))).astype(np.int16)
        data = ct_image(stored, **identity, **acquisition.attributes(position), **attributes)
        data.file_meta.MediaStorageSOPInstanceUID = UID(identity["SOPInstanceUID"])
        paths.append(save(data, folder / f"{study:02d}" / f"{series}-{number:03d}.dcm"))
    return paths


def run_inline(export: Export, out: Path, config: PreprocessConfig) -> run.Summary:
    """Plan, tasks and collection in this process, in the order in which a cluster runs them."""
    for index in range(run.plan(export.catalog, out, config)):
        run.run_task(export.catalog, out, index, config)
    return run.collect(out, config)


def contents(out: Path) -> dict[str, bytes]:
    """All output files by path, except those with times: task markers and summary."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "summary.json" and path.parent.name != "tasks"
    }


def times(out: Path) -> dict[str, int]:
    """Modification time of every output file, ns."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
