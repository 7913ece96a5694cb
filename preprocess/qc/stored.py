"""Thumbnails of volumes as they are stored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np

from preprocess.qc.thumbnail import thumbnail
from shards import Dataset
from shards.errors import FmctError
from shards.parallel import one_worker

Thumbnails = Callable[[Sequence[str]], list[np.ndarray]]
"""Maps the keys of volumes to their images, uint8 `thumbnail.SHAPE`."""


@contextmanager
def stored_thumbnails(dataset: Path, window_hu: tuple[float, float]) -> Iterator[Thumbnails]:
    """A function that draws volumes of a dataset, each once, in a window of that level and width.

    A worker process reads them: decoding loads compiled code, 50 MiB that the process of the caller, which
    holds tables of all volumes, need not have.
    The function raises FmctError if a volume cannot be read or that process dies, KeyError for other keys.
    """
    with one_worker(partial(_draw, dataset, window_hu), __name__) as draw:
        yield partial(_drawn_once, dataset, draw, {})


def _drawn_once(
    dataset: Path,
    draw: Callable[[Iterable[str]], list[np.ndarray]],
    known: dict[str, np.ndarray],
    keys: Sequence[str],
) -> list[np.ndarray]:
    new = [key for key in dict.fromkeys(keys) if key not in known]
    try:
        known.update(zip(new, draw(new), strict=True))
    except BrokenProcessPool:
        raise FmctError(
            f"{dataset}: the process that draws its volumes died, possibly out of memory; "
            "finished tasks are kept: run the same command again"
        ) from None
    return [known[key] for key in keys]


_opened = cache(Dataset.open)
"""In the worker. The caller passes the path only, so that it does not hold the index."""


def _draw(path: Path, window_hu: tuple[float, float], key: str) -> np.ndarray:
    dataset = _opened(path)
    return thumbnail(dataset.read(dataset.position(key)), dataset.info.spacing_mm, window_hu=window_hu)
