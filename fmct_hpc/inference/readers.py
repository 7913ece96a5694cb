"""Reading new scans: shard datasets directly, other formats through a registered reader.

The reader of DICOM and NIfTI is part of `preprocess`, which this package must not import; the distribution
registers it as an entry point of the group `fmct_hpc.readers`. Other distributions can register readers too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.train.export import EncoderInfo, require_same_preprocessing
from shards import Dataset
from shards.errors import FmctError
from shards.info import FILE_NAME
from shards.layers import named_layers
from shards.roles import study_roles
from shards.schema import Role
from shards.studies import studies_of

GROUP = "fmct_hpc.readers"
OF_STUDY = ("role", "study", "several_patients")
KEY_DIGITS = 32
"""Length of a volume's pseudonym."""


class Scan(NamedTuple):
    """One volume, ready for an encoder."""

    key: str
    """The key in a dataset; for other scans the first digits of the source digest (not identifying)."""
    voxels: NDArray[np.int16]
    """HU (D, H, W) growing towards superior, anterior, right."""
    affine: NDArray[np.float64]
    """(4, 4): (d, h, w, 1) to patient LPS mm."""
    study_key: str | None = None
    """From the dataset, or computed with the key file; else None."""
    patient_key: str | None = None
    path: Path | None = None
    """The file or folder it was read from; None for an array."""
    flags: tuple[str, ...] | None = None
    """Findings of the preprocessing checks; None for volumes of datasets, whose manifest has them."""
    role: Role | None = None
    """Role among the series of its study; None if the reader does not provide it."""
    study: int | None = None
    """Number of its study at the path; scans of a study are consecutive, the best first. None if the study is
    unknown."""
    several_patients: bool = False
    """Whether other series of the study have another Patient ID."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(D, H, W)."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return d, h, w


class Read(Protocol):
    """One scan as returned by a reader."""

    path: Path | None
    study_key: str | None
    patient_key: str | None
    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    source_digest: str
    flags: Sequence[str]
    """Findings of its checks, in snake_case."""
    # Optional: `role`, `study` and `several_patients`, as in `Scan`.


class Reader(Protocol):
    """Interface of an entry point: a module or object with these two functions.

    record, digest: the preprocessing configuration of the encoder's training volumes, and its SHA-256; both
    None if they were not preprocessed by this package. Both functions raise FmctError with the reason for
    input that the encoder does not accept.
    """

    def read(
        self, path: Path, record: Mapping[str, Any] | None, digest: str | None, key_file: Path | None
    ) -> Iterator[Read]:
        """Yield the volumes of a file or folder; key_file: for the keys of studies and patients, optional."""
        ...

    def read_array(
        self,
        hu: NDArray[Any],
        affine: NDArray[np.float64],
        record: Mapping[str, Any] | None,
        digest: str | None,
    ) -> Read:
        """The volume of an array (D, H, W) with its affine to patient LPS mm."""
        ...


Source = Path | str | Sequence[Path | str] | NDArray[Any]
"""A path, several of them, or an array of HU."""


def read_source(
    source: Source,
    info: EncoderInfo,
    affine: NDArray[np.float64] | None,
    key_file: Path | None,
    by_study: bool = False,
) -> Iterable[Scan]:
    """The volumes of `source`, which is as in `fmct_hpc.features`; raises FmctError as described there.

    by_study: see `read_scans`.
    """
    if isinstance(source, np.ndarray):
        if affine is None:
            raise FmctError("an array requires its affine (4, 4), from index (d, h, w, 1) to patient LPS mm")
        return [read_array(source, np.asarray(affine, np.float64), info)]
    paths = [Path(one) for one in ([source] if isinstance(source, Path | str) else source)]
    if not paths:
        raise FmctError("no path given; expected folders or files")
    return read_all(paths, info, key_file, by_study)


def read_all(
    paths: Sequence[Path], info: EncoderInfo, key_file: Path | None = None, by_study: bool = False
) -> Iterator[Scan]:
    """Yield the volumes at all `paths`; raises FmctError at the end, with a line per rejected path."""
    refused = []
    for path in paths:
        try:
            yield from read_scans(path, info, key_file, by_study=by_study)
        except FmctError as error:
            if len(paths) == 1:
                raise
            refused.append(str(error))
    if refused:
        raise FmctError("\n".join(refused))


def read_scans(
    path: Path,
    info: EncoderInfo,
    key_file: Path | None = None,
    rows: Sequence[int] | None = None,
    by_study: bool = False,
) -> Iterator[Scan]:
    """Yield the volumes at `path`, from a shard dataset or the registered reader.

    key_file: the site's, for the keys of studies and patients in DICOM. rows: only these rows of a dataset.
    by_study: group a dataset's volumes by study, with roles, the best one first; readers always do. Raises
    FmctError if the encoder accepts none of the volumes, or, after the others, for rejected ones.
    """
    if (path / FILE_NAME).is_file():
        yield from _read_dataset(path, info, rows, by_study)
        return
    for volume in _reader().read(path, info.preprocessing, info.preprocess_digest, key_file):
        yield _scan(volume)


def read_array(hu: NDArray[Any], affine: NDArray[np.float64], info: EncoderInfo) -> Scan:
    """The volume of an array of HU; `affine` maps its index to patient LPS mm."""
    return _scan(_reader().read_array(hu, affine, info.preprocessing, info.preprocess_digest))


def in_groups(scans: Iterable[Scan], size: int) -> Iterator[list[Scan]]:
    """Yield groups of `size`; an FmctError is raised after the scans read before it."""
    group: list[Scan] = []
    try:
        for scan in scans:
            group.append(scan)
            if len(group) == size:
                yield group
                group = []
    except FmctError:
        if group:
            yield group
        raise
    if group:
        yield group


def _scan(volume: Read) -> Scan:
    origin = {name: getattr(volume, name) for name in ("study_key", "patient_key", "path")}
    origin |= {name: getattr(volume, name) for name in OF_STUDY if hasattr(volume, name)}
    return Scan(
        key=volume.source_digest[:KEY_DIGITS],
        voxels=volume.voxels,
        affine=volume.affine,
        flags=tuple(volume.flags),
        **origin,
    )


def _read_dataset(
    path: Path, info: EncoderInfo, rows: Sequence[int] | None, by_study: bool
) -> Iterator[Scan]:
    dataset = Dataset.open(path)
    require_same_preprocessing(dataset, info.preprocess_digest, info.preprocessing, "the encoder")
    numbers = range(len(dataset)) if rows is None else rows
    if not by_study:
        yield from (_of_dataset(dataset, number) for number in numbers)
        return
    index = dataset.index.take(list(numbers))
    roles, studies = study_roles(index).roles, studies_of(index)
    whole = [(of_study, False) for of_study in studies.rows.values()]
    torn_ones = [(of_study, True) for of_study in studies.torn.values()]
    for study, (of_study, torn) in enumerate(whole + torn_ones):
        for row in of_study.tolist():
            role: Role = roles[row]
            scan = _of_dataset(dataset, numbers[row])
            yield scan._replace(role=role, study=study, several_patients=torn)


def _of_dataset(dataset: Dataset, number: int) -> Scan:
    record = dataset.record(number)
    return Scan(
        key=record.key,
        study_key=record.study_key,
        patient_key=record.patient_key,
        path=dataset.path,
        voxels=dataset.read(number),
        affine=np.array(record.affine).reshape(4, 4),
    )


def _reader() -> Reader:
    installed = list(entry_points(group=GROUP))
    if not installed:
        raise FmctError(
            "no reader of DICOM or NIfTI is installed; install fmct-hpc[preprocess], or use a shard dataset"
        )
    with named_layers():
        reader: Reader = installed[0].load()
    return reader
