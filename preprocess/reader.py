"""New scans for a trained encoder: preprocessed as its training volumes were, without a catalog or shards.

fmct_hpc finds this module by the entry point `fmct_hpc.readers`, for it must not import it.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import Series, read_catalog
from preprocess.privacy.deface import deface
from preprocess.qc.check import check, require_whole_head
from preprocess.qc.plausible import shown
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import scan
from preprocess.select.candidate import Candidate
from preprocess.select.divided import divided
from preprocess.select.study import as_rejection, select_study, studies
from preprocess.volume.array_volume import array_volume
from preprocess.volume.build import Volume, build_volume
from preprocess.volume.formats import format_of, open_volume
from shards.errors import FmctError
from shards.info import preprocessing_digest
from shards.newer import newer

log = logging.getLogger(__name__)


def configuration(record: Mapping[str, Any] | None, digest: str | None) -> PreprocessConfig:
    """The configuration that an encoder records, or, where it was trained on none of ours, the default.

    Raises FmctError where its digest shows that this version would preprocess in another way.
    """
    if digest is None:
        return PreprocessConfig.of_record({})
    if record is None:
        raise FmctError(
            "the encoder does not record how its training volumes were preprocessed; export it again from "
            "its run, or preprocess the scan with its recipe and give the shard dataset"
        )
    try:
        config = PreprocessConfig.of_record(record)
        read = digest in (config.digest(), preprocessing_digest(config.everything()))
    except ValidationError as error:
        if refusal := newer("the encoder's record of preprocessing", error):
            raise refusal from None
        read = False
    if not read:
        raise FmctError(
            "this version preprocesses otherwise than the one that made the encoder's training volumes; use "
            "that one"
        )
    return config


def read(path: Path, record: Mapping[str, Any] | None, digest: str | None) -> Iterator[Volume]:
    """Volumes of DICOM (folder, archive, multi-frame file) or of a volume's file, as `fmct preprocess` makes.

    record, digest: of the encoder's preprocessing. DICOM gives what the recorded selection takes, a volume a
    study with `keep: best`. Raises FmctError with the reason where that is nothing.
    """
    config = configuration(record, digest)
    if format_of(path):
        return iter([read_array(*_load(path), record, digest, name=str(path))])
    if not path.exists():
        raise FmctError(f"{path}: no such file or folder")
    return _read_dicom(path, config)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (slice, row, column) of a volume's file, and the affine of that index to patient LPS mm."""
    try:
        volume = open_volume(path)
        values = np.stack([volume.read(index) for index in range(volume.shape[0])])
    except Rejection as rejection:
        raise FmctError(f"{path}: {rejection.detail}") from None
    if volume.affine is None:
        raise FmctError(f"{path}: does not say how it lies in the patient; give the array with its affine")
    return values, volume.affine


def read_array(
    hu: np.ndarray,
    affine: np.ndarray,
    record: Mapping[str, Any] | None,
    digest: str | None,
    slice_axis: int = 0,
    name: str = "array",
) -> Volume:
    """The volume of an array of HU whose `affine` (4, 4) maps its index to patient LPS mm.

    slice_axis: the axis from slice to slice. Raises FmctError, under `name`, where it is no head in HU.
    """
    config = configuration(record, digest)
    try:
        volume = array_volume(hu, affine, slice_axis, config.grid, config.select)
        return _finished(volume, config)
    except Rejection as rejection:
        raise FmctError(f"{name}: refused: {rejection}") from None


def _finished(volume: Volume, config: PreprocessConfig, whole: bool = False) -> Volume:
    """With its flags and, where the training volumes were, defaced; Rejection, also of a head not `whole`."""
    seen = shown(volume.voxels, config.grid.spacing_mm, volume.told_enhanced)
    flags = check(volume.measures, volume.affine, config.check, seen)
    if Reason.NOT_A_HEAD in seen:
        raise Rejection(Reason.NOT_A_HEAD, seen[Reason.NOT_A_HEAD])
    if whole:
        require_whole_head(volume.measures, flags, config.check)
    volume = replace(volume, flags=flags)
    if not config.privacy.deface:
        return volume
    return replace(volume, voxels=deface(volume.voxels, config.grid.spacing_mm))


def _read_dicom(path: Path, config: PreprocessConfig) -> Iterator[Volume]:
    with tempfile.TemporaryDirectory(prefix="fmct-") as private:
        folder, catalog = path, Path(private) / "catalog.parquet"
        if not path.is_dir():  # a scan takes folders
            folder = Path(private) / "scan"
            folder.mkdir()
            (folder / path.name).symlink_to(path.absolute())
        try:
            scan(folder, catalog)
        except FmctError as error:
            raise FmctError(str(error).replace(str(folder), str(path))) from None
        series = read_catalog(catalog)
        yield from _volumes(path, series, config)


def _volumes(path: Path, series: list[Series], config: PreprocessConfig) -> Iterator[Volume]:
    made = 0
    rejected: Counter[str] = Counter()
    refused = divided(series)
    for study in studies(series):
        built: list[Volume] = []

        def build(candidate: Candidate, whole: bool, built: list[Volume] = built) -> Rejection | None:
            try:
                volume = build_volume(candidate.series, config.grid, config.select)
                built.append(_finished(volume, config, whole))
            except Exception as error:
                return as_rejection(error)
            return None

        outcomes = select_study(study, config.select, build, refused)
        rejected.update(str(outcome.rejection) for outcome in outcomes if outcome.rejection)
        made += len(built)
        yield from built
    reasons = "; ".join(f"{count} × {reason}" for reason, count in rejected.most_common())
    if not made:
        raise FmctError(f"{path}: none of {len(series)} series is a head CT for this encoder: {reasons}")
    if reasons:
        log.info("series that are not used: %s", reasons)
