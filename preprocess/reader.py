"""New scans for a trained encoder: preprocessed as its training volumes were, without a catalog or shards.

fmct_hpc finds this module by the entry point `fmct_hpc.readers`, for it must not import it.
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
from shards.newer import newer
from shards.roles import role_of, thickness_of
from shards.schema import Role

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewScan(Volume):
    """A volume, and where it comes from."""

    path: Path | None = None
    """The file, or the folder of DICOM; None of an array."""
    study_key: str | None = None
    """As `fmct preprocess` gives them with the same key file; None without one, and of what is no DICOM."""
    patient_key: str | None = None
    role: Role | None = None
    """Among the series of its study, by kernel and thickness."""
    study: int | None = None
    """Number of its study among those of the path, by Study Instance UID; None of what is no DICOM."""
    several_patients: bool = False
    """Do other series of the study bear another Patient ID?"""


def configuration(record: Mapping[str, Any] | None, digest: str | None) -> PreprocessConfig:
    """The configuration that an encoder records; the default if its training volumes are not of this package.

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
            "this version preprocesses differently from the one that made the encoder's training volumes; "
            "use that one"
        )
    return config


def read(
    path: Path, record: Mapping[str, Any] | None, digest: str | None, key_file: Path | None = None
) -> Iterator[NewScan]:
    """Volumes of DICOM (folder, archive, multi-frame file) or of volumes' files, as `fmct preprocess` makes.

    path: of a folder without DICOM all volumes' files (NIfTI, NRRD, MetaImage) are taken, in the order of
    their paths; those beside DICOM are not. record, digest: of the encoder's preprocessing. DICOM gives what
    the recorded selection takes, a volume a study with `keep: best`, else of each study the best one first,
    with the keys of `key_file`.

    Raises FmctError with the reason where that is nothing, and, after all others, for each file that gave
    nothing, by its number in that order.
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
                    "%d NIfTI and other files next to DICOM are not read: give their paths", len(files)
                )
            yield from _volumes(path, series, config, names)
            return
    yield from _read_files(path, files, record, digest)


def _volume_files(folder: Path) -> list[Path]:
    """The files below it that are volumes by their names, without hidden ones, ordered by their paths."""
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name[0] != ".")
    return sorted(file for file in found if format_of(file))


def _read_files(
    folder: Path, files: list[Path], record: Mapping[str, Any] | None, digest: str | None
) -> Iterator[NewScan]:
    refused = []
    for number, file in enumerate(files, 1):
        try:
            yield _read_file(file, record, digest)
        except FmctError as error:  # by number, for its name may spell a patient's
            said = str(error).replace(str(file), f"file {number} of {len(files)} by name")
            refused.append(f"{folder}: {said}")
    if refused:
        raise FmctError("\n".join(refused))


def _read_file(path: Path, record: Mapping[str, Any] | None, digest: str | None) -> NewScan:
    return replace(read_array(*_load(path), record, digest, name=str(path)), path=path)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (slice, row, column) of a volume's file, and the affine of that index to patient LPS mm."""
    try:
        volume = open_volume(path)
        values = np.stack([volume.read(index) for index in range(volume.shape[0])])
    except Rejection as rejection:
        raise FmctError(f"{path}: {rejection.detail}") from None
    if volume.affine is None:
        raise FmctError(
            f"{path}: does not state its orientation in the patient; give the array with its affine"
        )
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

    slice_axis: the axis from slice to slice. Raises FmctError, under `name`, where it is no head in HU.
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
    """New scans of another part of the body are refused, whatever `check.reject` says."""
    rejected = (*config.check.reject, Reason.NOT_A_HEAD)
    return config.model_copy(update={"check": config.check.model_copy(update={"reject": rejected})})


@contextmanager
def _scanned(path: Path) -> Iterator[list[Series]]:
    """The series at `path`, whose files can be read until the end; FmctError where there is no DICOM."""
    with tempfile.TemporaryDirectory(prefix="fmct-") as private:
        folder, catalog = path, Path(private) / "catalog.parquet"
        if not path.is_dir():  # a scan takes folders
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
        log.info("series not used: %s", reasons)


def _keys(series: Series, names: Pseudonymizer | None) -> dict[str, str]:
    """Of its study and patient."""
    if names is None:
        return {}
    keys = Keys.of(series, names)
    return {"study_key": keys.study_key, "patient_key": keys.patient_key}
