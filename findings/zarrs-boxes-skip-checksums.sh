#!/usr/bin/env bash
# zarrs 0.2.3 (zarr-python's codec pipeline in Rust) with zarr 3.1.6, codec crc32c in sharding_indexed
#
# One would guess: `codec_pipeline.validate_checksums`, which is True by default, has every chunk that is read held
# against its CRC-32C, as zarr-python's own pipeline does whether a box is read or the whole array.
# What happens: only a read that covers the whole outer chunk is checked. A box of it is not, and neither is the whole
# array where its edges are no multiples of the chunks, as those of images seldom are: a voxel with a flipped bit is
# returned, without an error or a warning. Training reads crops, so with crc32c in the codecs nothing is checked.
#
# Exits 1 if zarrs refuses the damaged chunk in each of these reads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zarr==3.1.6 zarrs==0.2.3 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

OWN, RUST = "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"
WHOLE, BOX = np.s_[:, :, :], np.s_[0:32, 0:32, 0:32]
BLOSC = BloscCodec(cname="zstd", shuffle="shuffle", typesize=2)


def read(pipeline: str, folder: Path, box: tuple[slice, ...], voxels: np.ndarray) -> str:
    with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.validate_checksums": True}):
        try:
            found = zarr.open_array(folder, mode="r")[box]
        except (ValueError, RuntimeError) as error:
            return f"refused: {str(error)[:45]}"
    return f"{np.count_nonzero(found != voxels[box])} wrong voxels"


print(f"zarrs {version('zarrs')}, zarr {zarr.__version__}; one bit of the first chunk's bytes is flipped:")
found = {}
for edge in (64, 60):
    folder = Path(sys.argv[1]) / str(edge)
    voxels = np.random.default_rng(0).integers(-1000, 2000, (edge,) * 3, np.int16)
    layout = {"shards": (64,) * 3, "chunks": (32,) * 3, "compressors": [BLOSC, Crc32cCodec()]}
    array = zarr.create_array(folder, shape=voxels.shape, dtype="int16", **layout)
    array[:] = voxels
    chunk = folder / "c/0/0/0"
    stored = bytearray(chunk.read_bytes())
    stored[100] ^= 1
    chunk.write_bytes(stored)
    for name, pipeline in (("zarr-python", OWN), ("zarrs", RUST)):
        for what, box in (("whole", WHOLE), ("box", BOX)):
            found[name, edge, what] = read(pipeline, folder, box, voxels)
            print(f"  {edge}³ voxels, {what}, {name}: {found[name, edge, what]}")
passed = {place for place, said in found.items() if "wrong" in said}
sys.exit(passed != {("zarrs", 64, "box"), ("zarrs", 60, "whole"), ("zarrs", 60, "box")})
PYTHON
