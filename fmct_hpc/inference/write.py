"""`fmct features`: features of new scans as files."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from fmct_hpc.inference.features import ScanFeatures, features
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from fmct_hpc.train.export import EncoderInfo
from shards.atomic import atomic_path, write_bytes
from shards.errors import FmctError
from shards.lock import writing
from shards.names import inside
from shards.places import require_file, require_folder
from shards.subject import Origin, Subject, claim

TABLE = "features.parquet"
Result = TypeVar("Result")
MAP = pa.schema([(name, pa.string()) for name in ("path", "key", "study_key", "patient_key", "reason")])


@dataclass(frozen=True)
class Written:
    """What came of the paths."""

    scans: int
    paths: int
    """That gave any."""
    flags: Counter[str]
    """Scans by what the checks of preprocessing found."""
    refused: tuple[str, ...]
    """Why a path gave nothing, or some of its files didn't, in lines that name it by its number alone."""


def write_features(
    paths: Sequence[Path],
    encoder: Path,
    out: Path,
    batch: int = 4,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    key_file: Path | None = None,
    private_map: Path | None = None,
) -> Written:
    """Write each scan's features, and a table of them all.

    `out`/KEY.safetensors holds cls (width,), patches (N, width) and centres_mm (N, 3), LPS mm.
    features.parquet has a row a scan, in order: path (its number among the paths given, from 0), key, cls,
    mean, flags (null for a shard dataset's volumes), study_key and patient_key (null of DICOM without
    `key_file`, and of other files). Neither names a patient or a path. progress: called with paths done and
    in all.

    private_map: Parquet to write, which its owner alone can read, a row a scan: path, the file or folder that
    it was read from, key, study_key and patient_key; and a row a refused path, with the reason.

    Raises FmctError where the encoder cannot be loaded, `out` takes no files, or holds features of another
    encoder or of scans that the paths don't have; a path that cannot be used is told in the result.
    """
    require_folder(out)
    if private_map is not None:
        require_file(private_map, encoder, key_file, *paths)
    loaded = load_weights(encoder)
    encoded_by = Origin.of(None, OurEncoder(*loaded).digest)
    with writing(out, "fmct features"):
        claim(out, Subject(command="features", sources={"encoder": encoded_by}), [TABLE])
        return _write_all(paths, loaded, out, batch, device, progress, key_file, private_map)


def _write_all(
    paths: Sequence[Path],
    loaded: tuple[Backbone, EncoderInfo],
    out: Path,
    batch: int,
    device: str,
    progress: Callable[[int, int], None],
    key_file: Path | None,
    private_map: Path | None,
) -> Written:
    rows: list[dict[str, Any]] = []
    places: list[dict[str, str | None]] = []
    refused: list[str] = []
    for number, path in enumerate(paths):
        try:
            read = features(path, loaded, batch=batch, device=device, key_file=key_file)
            for scan in of_path(number, path, read):
                _write(scan, out)
                of_scan = {name: getattr(scan, name) for name in ("key", "cls", "mean", "flags")}
                keys = {"study_key": scan.study_key, "patient_key": scan.patient_key}
                rows.append({"path": number, **of_scan, **keys})
                places.append({"path": _text(scan.path or path), "key": scan.key, **keys, "reason": None})
        except FmctError as error:
            refused.append(str(error))
            places.append({"path": _text(path), "reason": str(error)})
        progress(number + 1, len(paths))
    if rows:
        _require_all({row["key"] for row in rows}, out, refused)
        width = len(rows[0]["cls"])
        vector = pa.list_(pa.float32(), width)
        columns = {"path": pa.int32(), "key": pa.string(), "cls": vector, "mean": vector}
        columns |= {"flags": pa.list_(pa.string()), "study_key": pa.string(), "patient_key": pa.string()}
        with atomic_path(out / TABLE) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), temporary)
    if private_map is not None:
        with atomic_path(private_map, 0o600) as temporary:
            pq.write_table(pa.Table.from_pylist(places, schema=MAP), temporary)
    flags = Counter(flag for row in rows for flag in row["flags"] or ())
    return Written(len(rows), len({row["path"] for row in rows}), flags, tuple(refused))


def of_path(number: int, path: Path, scans: Iterator[Result]) -> Iterator[Result]:
    """What comes of a path; what refuses it names its number, for a path may spell a patient's name.

    Raises FmctError for all that the path is to blame for; it goes to logs that others read.
    """
    try:
        yield from scans
    except MemoryError:
        raise FmctError(f"path {number}: it needs more memory than there is") from None
    except OSError as error:
        if not error.errno:
            raise
        raise FmctError(f"path {number}: {os.strerror(error.errno).lower()}; get the right to it") from None
    except FmctError as error:
        alone = rf"(?<![^\s(]){re.escape(str(path))}(?![^\s/:;,)])"
        lines = re.sub(alone, "it", str(error)).splitlines()
        lines = [line.removeprefix("it: ").removeprefix("it/") for line in lines]
        raise FmctError("\n".join(f"path {number}: {line}" for line in lines)) from None


def _text(path: Path) -> str:
    """From /, whatever its bytes."""
    return os.fsencode(path.absolute()).decode(errors="backslashreplace")


def _require_all(keys: set[str], out: Path, refused: list[str]) -> None:
    """Raise FmctError where the table there has scans that the new one would not have."""
    if not (out / TABLE).exists():
        return
    lost = set(pq.read_table(out / TABLE, columns=["key"])["key"].to_pylist()) - keys
    if lost:
        held = f"{out}: holds features of {len(lost)} scans that these paths don't have; name another folder"
        raise FmctError("\n".join([held, *refused]))


def _write(scan: ScanFeatures, out: Path) -> None:
    arrays = {"cls": scan.cls, "patches": scan.patches, "centres_mm": scan.centres_mm}
    # Not by save_file, which says no OSError where the disk is full.
    write_bytes(inside(out, f"{scan.key}.safetensors"), save(arrays))
