"""New scans for a trained encoder, preprocessed like its training volumes, without a catalog or shards.

fmct_hpc loads this module through the entry point `fmct_hpc.readers`, because it must not import it.
"""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from preprocess.build.finish import finish_volume, make_volume
from preprocess.build.study import StudyBuilder
from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import Series, read_catalog
from preprocess.privacy.deidentify import Pseudonymizer, same_patient
from preprocess.privacy.keys import Keys
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import scan
from preprocess.select.divided import divided
from preprocess.select.study import select_study, studies
from preprocess.volume.array_volume import array_volume
from preprocess.volume.build import Volume
from preprocess.volume.formats import format_of, open_volume
from shards.errors import FmctError, RefusedError
from shards.info import preprocessing_digest
from shards.newer_version import newer_version_error
from shards.roles import role_of, thickness_of
from shards.schema import Role

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewScan(Volume):
    """A volume and its source."""

    path: Path | None = None
    """The file, or the DICOM folder; None for an array."""
    study_key: str | None = None
    """As in `fmct preprocess` with the same key file; None without a key file and for non-DICOM sources."""
    patient_key: str | None = None
    role: Role | None = None
    """Role among the series of its study, by kernel and thickness."""
    study: int | None = None
    """Number of its study at the path, by Study Instance UID; None for non-DICOM sources."""
    several_patients: bool = False
    """Whether other series of the study have another Patient ID."""


def configuration(record: Mapping[str, Any] | None, digest: str | None) -> PreprocessConfig:
    """The configuration recorded in an encoder; the default if its training volumes are not of this package.

    Raises FmctError if its digest shows that this version would preprocess differently.
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
        if refusal := newer_version_error("the encoder's record of preprocessing", error):
            raise refusal from None
        read = False
    if not read:
        raise FmctError(
            "this version preprocesses differently from the one that made the encoder's training volumes; "
            "use that version"
        )
    return config


def read(
    path: Path, record: Mapping[str, Any] | None, digest: str | None, key_file: Path | None = None
) -> Iterator[NewScan]:
    """Volumes of DICOM (folder, archive, multi-frame file) or of volume files, made as in `fmct preprocess`.

    path: in a folder without DICOM, all volume files (NIfTI, NRRD, MetaImage) are read, sorted by path;
    beside DICOM they are not. record, digest: of the encoder's preprocessing. DICOM gives the series that the
    recorded selection accepts: one volume per study with `keep: best`, else all, each study's best volume
    first, with the keys of `key_file`.

    Raises FmctError with the reasons if there is no volume, and, after yielding all others, for files that
    gave no volume, by their number in that order.
    """
    config = configuration(record, digest)
    names = Pseudonymizer(key_file) if key_file else None
    if format_of(path):
        yield _read_file(path, record, digest)
        return
    if not path.exists():
        raise FmctError(f"{path}: no such file or folder")
    files = _volume_files(path) if path.is_dir() else []
    with ExitStack() as stack:
        try:
            series = stack.enter_context(_scanned(path))
        except RefusedError:
            raise
        except FmctError:
            if not files:
                raise
        else:
            if files:
                log.warning(
                    "%d volume files (NIfTI, ...) beside DICOM are ignored: give their paths", len(files)
                )
            yield from _volumes(path, series, config, names)
            return
    yield from _read_files(path, files, record, digest)


def _volume_files(folder: Path) -> list[Path]:
    """The files below a folder with a volume file's suffix, except hidden ones, sorted by path."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name[0] != ".")
    return sorted(file for file in files if format_of(file))


def _read_files(
    folder: Path, files: list[Path], record: Mapping[str, Any] | None, digest: str | None
) -> Iterator[NewScan]:
    refused = []
    for number, file in enumerate(files, 1):
        try:
            yield _read_file(file, record, digest)
        except FmctError as error:  # by number: its name may contain a patient's
            message = str(error).replace(str(file), f"file {number} of {len(files)} by name")
            refused.append(f"{folder}: {message}")
    if refused:
        raise FmctError("\n".join(refused))


def _read_file(path: Path, record: Mapping[str, Any] | None, digest: str | None) -> NewScan:
    return replace(read_array(*_load(path), record, digest, name=str(path)), path=path)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (slice, row, column) of a volume file, and the affine of that index to patient LPS mm."""
    try:
        volume = open_volume(path)
        values = np.stack([volume.read(index) for index in range(volume.shape[0])])
    except Rejection as rejection:
        raise FmctError(f"{path}: {rejection.detail}") from None
    if volume.affine is None:
        raise FmctError(f"{path}: has no orientation in the patient; give the array with its affine")
    return values, volume.affine


def read_array(
    hu: np.ndarray,
    affine: np.ndarray,
    record: Mapping[str, Any] | None,
    digest: str | None,
    slice_axis: int = 0,
    name: str = "array",
) -> NewScan:
    """The volume of an array of HU whose `affine` (4, 4) maps its index to patient LPS mm.

    slice_axis: the through-plane axis. Raises FmctError that names `name` if it is not a head in HU.
    """
    config = configuration(record, digest)
    try:
        volume = array_volume(hu, affine, slice_axis, config.grid, config.select)
    except Rejection as rejection:
        raise FmctError(f"{name}: rejected: {rejection}") from None
    made = finish_volume(volume, _strict(config))
    if made.volume is None or made.rejection:
        raise FmctError(f"{name}: rejected: {made.rejection}")
    facts = volume.facts
    role = role_of(facts.kernel_class, thickness_of(facts.slice_thickness_mm, facts.slice_gap_mm))
    return NewScan(**vars(made.volume), role=role)


def _strict(config: PreprocessConfig) -> PreprocessConfig:
    """Reject new scans of another body part, regardless of `check.reject`."""
    rejected = (*config.check.reject, Reason.NOT_A_HEAD)
    return config.model_copy(update={"check": config.check.model_copy(update={"reject": rejected})})


@contextmanager
def _scanned(path: Path) -> Iterator[list[Series]]:
    """The series at `path`; their files stay readable inside the context. FmctError if there is no DICOM."""
    with tempfile.TemporaryDirectory(prefix="fmct-") as private:
        folder, catalog = path, Path(private) / "catalog.parquet"
        if not path.is_dir():  # scans require folders
            folder = Path(private) / "scan"
            folder.mkdir()
            (folder / path.name).symlink_to(path.absolute())
        try:
            scan(folder, catalog)
        except FmctError as error:
            if folder == path:
                raise
            raise FmctError(str(error).replace(str(folder), str(path))) from None
        yield read_catalog(catalog)


def _volumes(
    path: Path, series: list[Series], config: PreprocessConfig, names: Pseudonymizer | None
) -> Iterator[NewScan]:
    made = 0
    rejected: Counter[str] = Counter()
    refused = divided(series)
    patients: dict[str, set[str]] = {}
    for one in series:
        patients.setdefault(one.study_uid, set()).add(same_patient(one.patient_id))
    numbers = {uid: number for number, uid in enumerate(patients)}
    for study in studies(series):
        uid = study[0].study_uid
        of_study = {"study": numbers[uid], "several_patients": len(patients[uid]) > 1}
        selection = select_study(study, config.select, refused)
        builder = StudyBuilder(selection, config.select.keep, partial(make_volume, config=_strict(config)))
        for candidate, result in builder:
            if result.volume and not result.rejection:
                known = vars(result.volume) | of_study | _keys(candidate.series, names)
                made += 1
                yield NewScan(**known, path=path, role=candidate.role)
        outcomes = builder.outcomes()
        rejected.update(str(outcome.rejection) for outcome in outcomes if outcome.rejection)
    reasons = "; ".join(f"{count} × {reason}" for reason, count in rejected.most_common())
    if not made:
        wanted = f"a {config.select.anatomy} CT for this encoder"
        raise FmctError(f"{path}: none of {len(series)} series is {wanted}: {reasons}")
    if reasons:
        log.info("rejected series: %s", reasons)


def _keys(series: Series, names: Pseudonymizer | None) -> dict[str, str]:
    """Keys of a series' study and patient."""
    if names is None:
        return {}
    keys = Keys.of(series, names)
    return {"study_key": keys.study_key, "patient_key": keys.patient_key}
