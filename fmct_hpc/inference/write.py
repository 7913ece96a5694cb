"""`fmct features`: write features of new scans to files."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import save

from fmct_hpc.inference.features import ScanFeatures, of_scans
from fmct_hpc.inference.parts import Part, Piece, inputs_of, parts_of
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.model.execution import usable_device
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from shards.atomic import atomic_path, write_bytes
from shards.errors import FmctError
from shards.info import sha256
from shards.ledger import Ledger
from shards.listed import register_files
from shards.lock import writing
from shards.names import inside
from shards.output_paths import require_file, require_folder
from shards.share import WHOLE, Share
from shards.subject import Origin, Subject, claim

TABLE = "features.parquet"
PART_VOLUMES, PART_PATHS = 256, 16
"""Volumes of a dataset, and other paths (usually one exam each), per part: about a minute of work."""
VERSION = 1
"""Increase it with every change of the features for the same inputs; all are then computed again."""
MAP_NEEDS_ALL = "--private-map: it requires all paths in one process; omit --share and --collect"
Progress = Callable[[int, int], None]
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
    parts: int
    done: int


class FeatureTable:
    """The features of the scans at some paths, in a folder, in parts that a job array can divide."""

    def __init__(
        self,
        paths: Sequence[Path],
        encoder: Path,
        out: Path,
        batch: int = 4,
        device: str = "cpu",
        key_file: Path | None = None,
        private_map: Path | None = None,
    ) -> None:
        """Load the encoder; parameters as of `write_features`.

        Raises FmctError if the encoder cannot be loaded, an output is not writable, or there is no such
        device.
        """
        require_folder(out)
        if private_map is not None:
            require_file(private_map, encoder, key_file, *paths)
        self._out, self._batch, self._device = out, batch, usable_device(device)
        self._key_file, self._map = key_file, private_map
        self._loaded = load_weights(encoder)
        self._digest = OurEncoder(*self._loaded).digest
        self._parts = parts_of(paths, PART_VOLUMES, PART_PATHS, by_study=False)
        keyed = sha256(key_file) if key_file else ""
        self._files = [self._file(part, keyed) for part in self._parts]
        self._places: list[tuple[int, dict[str, str | None]]] = []
        vector = pa.list_(pa.float32(), self._loaded[1].model.width)
        columns = {"path": pa.int32(), "key": pa.string(), "cls": vector, "mean": vector}
        columns |= {"flags": pa.list_(pa.string()), "study_key": pa.string(), "patient_key": pa.string()}
        self._schema = pa.schema({**columns, "reason": pa.string()})

    def run(self, share: Share = WHOLE, progress: Progress = lambda done, total: None) -> int:
        """Compute missing parts, all or those of a share; returns their number.

        A part is kept for the same encoder, paths, datasets and key, and read again if a path in it was
        refused, or for a private map. Exams that changed in place are not read again, except into another
        `out`. progress: called with the number of parts made and to make. Raises FmctError if `out` has
        features of another encoder, and for a private map of a share.
        """
        if self._map is not None and share != WHOLE:
            raise FmctError(MAP_NEEDS_ALL)
        with writing(self._out, "fmct features", shared=share != WHOLE):
            about = Subject(command="features", sources={"encoder": Origin.of(None, self._digest)})
            claim(self._out, about, [TABLE])
            register_files(self._out, self._files, share)
            return Ledger(range(len(self._parts)), self._kept).share(share).make(self._make, progress)

    def collect(self) -> Written:
        """Join the finished parts, in the order of the paths, and write the private map, if there is one.

        Raises FmctError if no part is finished, if `out` has features of scans that are not at the paths, and
        for a private map without a preceding `run`, which reads the paths.
        """
        if self._map is not None and not self._places:
            raise FmctError(MAP_NEEDS_ALL)
        done = [file for file in self._files if file.is_file()]
        if not done:
            raise FmctError(f"{self._out}: no features of these paths yet; run without --collect")
        every = pa.concat_tables(pq.read_table(file, schema=self._schema) for file in done)
        every = every.take(pc.sort_indices(every, [("path", "ascending")]))
        reasons = every.filter(pc.is_valid(every["reason"])).select(["path", "reason"]).to_pylist()
        refused = tuple(dict.fromkeys(line for row in reasons for line in row["reason"].splitlines()))
        table = every.filter(pc.is_null(every["reason"])).drop_columns(["reason"])
        with writing(self._out, "fmct features --collect"):
            if table.num_rows:
                _require_all(set(table["key"].to_pylist()), self._out, list(refused))
                with atomic_path(self._out / TABLE) as temporary:
                    pq.write_table(table, temporary)
            if self._map is not None:
                places = [place for _, place in sorted(self._places, key=lambda one: one[0])]
                with atomic_path(self._map, 0o600) as temporary:
                    pq.write_table(pa.Table.from_pylist(places, schema=MAP), temporary)
        flags = Counter(flag for own in table["flags"].to_pylist() for flag in own or ())
        count = len(pc.unique(table["path"]))
        return Written(table.num_rows, count, flags, refused, len(self._parts), len(done))

    def _file(self, part: Part, keyed: str) -> Path:
        about = f"{VERSION} {self._digest} {keyed} {inputs_of(part)}"
        return self._out / "units" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.parquet"

    def _kept(self, number: int) -> bool:
        file = self._files[number]
        if self._map is not None or not file.is_file():
            return False
        table = pq.read_table(file, columns=["key", "reason"])
        keys = table["key"].drop_null().to_pylist()
        there = all(inside(self._out, f"{key}.safetensors").is_file() for key in keys)
        return there and table["reason"].null_count == table.num_rows

    def _make(self, number: int) -> None:
        rows: list[dict[str, Any]] = []
        for piece in self._parts[number]:
            try:
                for row in self._rows(piece):
                    rows.append(row)
            except FmctError as error:
                rows.append({"path": piece.number, "reason": str(error)})
                self._places.append((piece.number, {"path": _text(piece.path), "reason": str(error)}))
        with atomic_path(self._files[number]) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, self._schema), temporary, compression="zstd")

    def _rows(self, piece: Piece) -> Iterator[dict[str, Any]]:
        model, info = self._loaded
        scans = read_scans(piece.path, info, self._key_file, piece.rows)
        features = of_scans(scans, model.to(self._device).eval(), info, self._batch, self._device)
        for scan in of_path(piece.number, piece.path, features):
            write_scan(scan, self._out)
            of_scan = {name: getattr(scan, name) for name in ("key", "cls", "mean", "flags")}
            keys = {"study_key": scan.study_key, "patient_key": scan.patient_key}
            place = {"path": _text(scan.path or piece.path), "key": scan.key, **keys, "reason": None}
            self._places.append((piece.number, place))
            yield {"path": piece.number, **of_scan, **keys}


def write_features(
    paths: Sequence[Path],
    encoder: Path,
    out: Path,
    batch: int = 4,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    key_file: Path | None = None,
    private_map: Path | None = None,
) -> Written:
    """Write each scan's features, and a table of all scans.

    `out`/KEY.safetensors holds cls (width,), patches (N, width) and centres_mm (N, 3), LPS mm.
    features.parquet has a row per scan, in order: path (its position in the given list, from 0), key, cls,
    mean, flags (null for volumes of shard datasets), study_key and patient_key (null for DICOM without
    `key_file`, and for other files). Neither has names of patients or paths. progress: called with the number
    of finished parts and the total.

    private_map: Parquet to write, readable only by its owner, with a row per scan: path (the file or folder
    it was read from), key, study_key and patient_key; and a row per rejected path, with the reason.

    Raises FmctError if the encoder cannot be loaded, or if `out` is not writable or has features of another
    encoder or of scans that are not at the paths. Paths that cannot be used are listed in the result.
    """
    table = FeatureTable(paths, encoder, out, batch, device, key_file, private_map)
    table.run(WHOLE, progress)
    return table.collect()


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
