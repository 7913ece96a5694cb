"""Files that need no reading, because an earlier scan, or this one before it was killed, has read them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from preprocess.scan.spill import FINGERPRINT, Buckets, append, find

_RECORD = np.dtype([("file", FINGERPRINT), ("record", "<u4")])


class KnownFiles:
    """Fingerprints of files, ascending, each with the number of the record of its findings.

    Stored in memory-mapped files that processes share: 20 bytes per file.
    """

    def __init__(self, folder: Path) -> None:
        self.files = _mapped(folder / "files", FINGERPRINT)
        self.records = _mapped(folder / "records", np.dtype("<u4"))

    @staticmethod
    def build(folder: Path, records: Iterable[tuple[int, np.ndarray]]) -> "KnownFiles":
        """Create it in `folder` from (record number, fingerprints of files); the least number wins."""
        buckets = Buckets(folder, _RECORD, by="file")
        for number, files in records:
            files = np.unique(files)
            buckets.add(np.rec.fromarrays([files, np.full(len(files), number)], dtype=_RECORD))
        for bucket in buckets:
            ordered = bucket[np.lexsort((bucket["record"], bucket["file"]))]
            files, first = np.unique(ordered["file"], return_index=True)
            append(folder / "files", files.tobytes())
            append(folder / "records", ordered["record"][first].tobytes())
        return KnownFiles(folder)

    def find(self, files: np.ndarray) -> np.ndarray:
        """Position of each fingerprint, -1 if not known; int64 (n,)."""
        return find(self.files, files)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.exists() else np.empty(0, dtype)
