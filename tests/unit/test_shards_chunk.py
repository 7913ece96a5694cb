"""blosc reads our chunks at every entropy; nothing else is accepted as one."""

from collections.abc import Callable

import numpy as np
import pytest
from numcodecs import blosc

from shards.chunk import CHUNK, STREAM, ChunkEncoder
from shards.format_names import Codec

EDGES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "air": lambda rng: np.full(CHUNK**3, -1024),
    "brain": lambda rng: rng.normal(30, 8, CHUNK**3),
    "random low bytes": lambda rng: rng.integers(0, 256, CHUNK**3),
    "all random": lambda rng: rng.integers(-32768, 32768, CHUNK**3),
}


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", EDGES)
def test_blosc_reads_a_chunk_and_its_layout(kind: str, codec: Codec) -> None:
    chunk = EDGES[kind](np.random.default_rng(0)).astype(np.int16).reshape((CHUNK,) * 3)
    encoder = ChunkEncoder(codec)
    encoder.encode(~chunk)  # a context used before gives the same bytes
    stored = encoder.encode(chunk)
    assert stored == ChunkEncoder(codec).encode(chunk)
    np.testing.assert_array_equal(np.frombuffer(blosc.decompress(stored), "<i2"), chunk.ravel())
    assert blosc._cbuffer_sizes(stored) == (2 * STREAM, len(stored), 2 * STREAM)
    assert blosc._cbuffer_metainfo(stored)[:2] == (2, 1)  # typesize, byte shuffle
    assert len(stored) <= 20 + 2 * (4 + STREAM)
