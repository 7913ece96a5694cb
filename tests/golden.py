"""Fixed inputs, and the volumes made from them; tests/numerics/test_golden_voxels.py has the digests.

    python tests/golden.py    prints the digests that the code makes now

They are the same on every x86-64: the files are fixed bytes, the decoders' wheels have the same code for all,
and what numba compiles has no fused multiply-add, which it leaves out unless asked for. Only the last bits
of positions may differ (BLAS has kernels for each CPU): noise of 5e-13 mm on all positions, several of their
last bits, changed none of these voxels, nor did numba's and BLAS's code for a generic x86-64 and a Haswell.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from dicom_files import ct_image, save, scanned
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from preprocess.anatomy.deface import deface
from preprocess.config import GridConfig
from preprocess.dicom.decode import Decoder
from preprocess.select.rules import SelectConfig
from preprocess.volume.array_volume import array_volume
from preprocess.volume.build import build_volume

DATA = Path(__file__).parent / "data"
SERIES = DATA / "golden.zip"
"""A folder a series of `fmct demo export --studies 24 --seed 5 --matrix 32`: each vendor, and each transfer
syntax that the generator writes. They are kept because the generator's own floats may differ by machine."""
CODESTREAMS = {
    "jpeg-lossless-predictor-1.jpg": "1.2.840.10008.1.2.4.70",
    "jpeg-lossless-predictor-4.jpg": "1.2.840.10008.1.2.4.57",
    "jpeg-lossless-predictor-6.jpg": "1.2.840.10008.1.2.4.57",
    "jpeg-baseline.jpg": "1.2.840.10008.1.2.4.50",
    "jpeg-extended-12-bit.jpg": "1.2.840.10008.1.2.4.51",
    "jpeg-ls.jls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls-near-2.jls": "1.2.840.10008.1.2.4.81",
    "jpeg2000-lossy.j2k": "1.2.840.10008.1.2.4.91",
    "htj2k.jph": "1.2.840.10008.1.2.4.201",
}
"""Images of 48 × 64 pixels by their transfer syntax (PS3.5, annex A.4)."""
SPACING = (1.87, 1.93, 2.03)
"""Chosen so that no voxel's centre is exactly on the edge of a scanned slab."""
TURNED = np.diag([-1.0, 1.0, 1.0, 1.0])
"""Affine of an array whose slices are stored in reverse order."""


class Golden(NamedTuple):
    """The expected properties of a volume."""

    sha256: str
    """Start of the SHA-256 of its shape and voxels."""
    origin_mm: tuple[float, ...]
    """Position of its voxel (0, 0, 0), LPS, to a micrometre."""


def made(folder: Path) -> Iterator[tuple[str, Golden]]:
    """The volume that the current code makes of each fixed input, by name; `folder`: an empty work folder."""
    with zipfile.ZipFile(SERIES) as archive:
        archive.extractall(folder / "series")
    for path in [*sorted((folder / "series").iterdir()), DATA / "ge_head_tilt18"]:
        (series,) = scanned(path, folder / f"{path.name}.parquet")
        volume = build_volume(series, GridConfig(spacing_mm=SPACING), SelectConfig())
        yield path.name, _golden(volume.voxels, volume.affine)
    fine = build_volume(series, GridConfig(), SelectConfig())
    yield f"{path.name}, 1 mm", _golden(fine.voxels, fine.affine)
    yield f"{path.name}, defaced", _golden(deface(volume.voxels, SPACING), volume.affine)
    coarser = GridConfig(spacing_mm=(2.6, 2.7, 2.8))
    array = array_volume(volume.voxels[::-1], volume.affine @ TURNED, 0, coarser, SelectConfig())
    yield f"{path.name}, array", _golden(array.voxels, array.affine)
    for name, syntax in CODESTREAMS.items():
        yield name, _golden(_decoded(name, syntax, folder / name), np.eye(4))


def _golden(voxels: np.ndarray, affine: np.ndarray) -> Golden:
    digest = hashlib.sha256(f"{voxels.shape}".encode() + voxels.astype("<i2").tobytes())
    return Golden(digest.hexdigest()[:16], tuple(np.round(affine[:3, 3], 3).tolist()))


def _decoded(name: str, syntax: str, folder: Path) -> np.ndarray:
    eight = name == "jpeg-baseline.jpg"
    bits: dict[str, object] = {} if eight else {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}
    data = ct_image(np.zeros((48, 64), np.uint8 if eight else np.uint16), **bits)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.PixelData = encapsulate([(DATA / "codestreams" / name).read_bytes()])
    data["PixelData"].is_undefined_length = True
    save(data, folder / "image.dcm")
    (series,) = scanned(folder)
    with Decoder() as decoder:
        return decoder.decode(series.instances[0]).hu


if __name__ == "__main__":
    with TemporaryDirectory() as empty:
        for name, golden in made(Path(empty)):
            print(f'    "{name}": {tuple(golden)},')
