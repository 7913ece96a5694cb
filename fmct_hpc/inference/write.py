"""`fmct features`: write features of new scans to files."""

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
from shards.output_paths import require_file, require_folder
from shards.subject import Origin, Subject, claim

TABLE = "features.parquet"
Result = TypeVar("Result")
MAP = pa.schema([(name, pa.string()) for name in ("path", "key", "study_key", "patient_key", "reason")])


@dataclass(frozen=True)
class Written:
    """Summary of the written features."""

    scans: int
    paths: int
    """Number of paths with scans."""
    flags: Counter[str]
    """Number of scans by finding of the preprocessing checks."""
    refused: tuple[str, ...]
    """Reasons for rejected paths or files, one line each, with the path's number and not its name."""


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
    """Write each scan's features, and a table of all scans.

    `out`/KEY.safetensors holds cls (width,), patches (N, width) and centres_mm (N, 3), LPS mm.
    features.parquet has a row per scan, in order: path (its position in the given list, from 0), key, cls,
    mean, flags (null for volumes of shard datasets), study_key and patient_key (null for DICOM without
    `key_file`, and for other files). Neither has names of patients or paths. progress: called with the number
    of finished paths and the total.

    private_map: Parquet to write, readable only by its owner, with a row per scan: path (the file or folder
    it was read from), key, study_key and patient_key; and a row per rejected path, with the reason.

    Raises FmctError if the encoder cannot be loaded, or if `out` is not writable or has features of another
    encoder or of scans that are not at the paths. Paths that cannot be used are listed in the result.
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
                write_scan(scan, out)
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
    """Yield the results of a path; errors have its number, since a path may contain a patient's name.

    Raises FmctError for all errors caused by the path; the message is safe for shared logs.
    """
    try:
        yield from scans
    except MemoryError:
        raise FmctError(f"path {number}: not enough memory") from None
    except OSError as error:
        if not error.errno:
            raise
        raise FmctError(f"path {number}: {os.strerror(error.errno).lower()}; check its permissions") from None
    except FmctError as error:
        alone = rf"(?<![^\s(]){re.escape(str(path))}(?![^\s/:;,)])"
        lines = re.sub(alone, "it", str(error)).splitlines()
        lines = [line.removeprefix("it: ").removeprefix("it/") for line in lines]
        raise FmctError("\n".join(f"path {number}: {line}" for line in lines)) from None


def _text(path: Path) -> str:
    """The absolute path as text, with undecodable bytes escaped."""
    return os.fsencode(path.absolute()).decode(errors="backslashreplace")


def _require_all(keys: set[str], out: Path, refused: list[str]) -> None:
    """Raise FmctError if the existing table has scans that the new one would not have."""
    if not (out / TABLE).exists():
        return
    lost = set(pq.read_table(out / TABLE, columns=["key"])["key"].to_pylist()) - keys
    if lost:
        conflict = f"{out}: has features of {len(lost)} scans that are not at these paths; use another folder"
        raise FmctError("\n".join([conflict, *refused]))


def write_scan(scan: ScanFeatures, out: Path) -> None:
    """Write the features of a scan to `out`, under its key. Raises OSError if the disk is full."""
    arrays = {"cls": scan.cls, "patches": scan.patches, "centres_mm": scan.centres_mm}
    # Not with save_file, which raises no OSError if the disk is full.
    write_bytes(inside(out, f"{scan.key}.safetensors"), save(arrays))
