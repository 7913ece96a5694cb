"""The files that need no reading, because an earlier scan, or this one before it was killed, read them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from preprocess.scan.spill import FINGERPRINT, Buckets, append, find

_RECORD = np.dtype([("file", FINGERPRINT), ("record", "<u4")])


class Known:
    """Fingerprints of files, ascending, each with the number of the record that its findings are in.

    Kept in files that processes share by mapping them: 20 bytes a file, of which the system keeps in
    memory what it can spare.
    """

    def __init__(self, folder: Path) -> None:
        self.files = _mapped(folder / "files", FINGERPRINT)
        self.records = _mapped(folder / "records", np.dtype("<u4"))

    @staticmethod
    def build(folder: Path, records: Iterable[tuple[int, np.ndarray]]) -> "Known":
        """Make it in `folder` from (record number, fingerprints of files); the least number counts."""
        buckets = Buckets(folder, _RECORD, by="file")
        for number, files in records:
            files = np.unique(files)
            buckets.add(np.rec.fromarrays([files, np.full(len(files), number)], dtype=_RECORD))
        for bucket in buckets:
            ordered = bucket[np.lexsort((bucket["record"], bucket["file"]))]
            files, first = np.unique(ordered["file"], return_index=True)
            append(folder / "files", files.tobytes())
            append(folder / "records", ordered["record"][first].tobytes())
        return Known(folder)

    def find(self, files: np.ndarray) -> np.ndarray:
        """Where each fingerprint stands, -1 where it is not known; int64 (n,)."""
        return find(self.files, files)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.exists() else np.empty(0, dtype)
