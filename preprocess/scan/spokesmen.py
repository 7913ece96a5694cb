"""Series that lost the image whose texts the catalog keeps for all of theirs.

What their other images say is on no record, so that those files have to be read again.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from preprocess.scan.findings import Published, file_fingerprints
from preprocess.scan.known import Known


def orphaned_files(
    last: Published, number: int, known: Known, seen: np.ndarray, again: np.ndarray
) -> Iterator[bytes]:
    """Paths of the unchanged files of series whose spokesman's file is gone or changed, each once.

    number: which record `last` is; a file that another record counts for has its own texts there.
    seen: bool, one for each known file, as the walk left it; what is yielded is set in `again`, like it.
    """
    for images, spokesmen in last.series():
        speakers = np.unique(spokesmen)
        places = known.find(file_fingerprints(images.take(pa.array(speakers))))
        lost = speakers[~_at(seen, places)]
        silent = images.filter(pa.array(np.isin(spokesmen, lost)))
        places, first = np.unique(known.find(file_fingerprints(silent)), return_index=True)
        wanted = _at(seen, places) & ~_at(again, places)
        wanted[wanted] = known.records[places[wanted]] == number
        again[places[wanted]] = True
        yield from silent["path"].take(pa.array(first[wanted])).to_pylist()


def _at(flags: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The flags at these places, False where a place is -1; bool (n,)."""
    found = places >= 0
    found[found] = flags[places[found]]
    return found
