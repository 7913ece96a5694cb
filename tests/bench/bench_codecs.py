"""The cost of each transfer syntax in a preprocessing task, in this version of the code and in another.

    git worktree add /tmp/other 872b9ad
    OMP_NUM_THREADS=1 python tests/bench/bench_codecs.py --against /tmp/other

needs imagecodecs (the extra `bench`) for JPEG-LS and HTJ2K. Each version runs in a separate process, with
interleaved rows; CPU time, minimum of several rounds. The run fails unless the voxels' CRC-32 and the source
digest of every row are those of the uncompressed series. `bench_preprocess.py` compares a task with its
unavoidable steps and with other programs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from markdown_table import heading, row
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicom_files import Acquisition, ct_image, save
from jpeg_lossless_writer import written
from preprocess_export import CENTRE, head

HERE = Path(__file__).parent
BITS = 12
"""Stored, unsigned, with a Rescale Intercept of -1024, as scanners write them."""
SYNTAXES = {
    "uncompressed": None,
    "JPEG Lossless SV1": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
    "HTJ2K": HTJ2KLossless,
    "JPEG 2000": JPEG2000Lossless,
    "deflated": DeflatedExplicitVRLittleEndian,
}


def encoder(syntax: str) -> Callable[[np.ndarray], bytes]:
    """Encoders from uint16 pixels to a codestream."""
    if syntax == JPEGLosslessSV1:
        return lambda pixels: written(pixels, BITS)
    import imagecodecs  # the others need it

    if syntax == JPEGLSLossless:
        return imagecodecs.jpegls_encode
    if syntax == HTJ2KLossless:
        return lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True)
    return lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=BITS)


def compress(data: pydicom.FileDataset, syntax: str, path: Path) -> None:
    if syntax == RLELossless:
        data.compress(syntax, generate_instance_uid=False)
    elif syntax == DeflatedExplicitVRLittleEndian:
        save_deflated(data, path)
        return
    else:
        data.PixelData = encapsulate([encoder(syntax)(data.pixel_array)])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = UID(syntax)
    save(data, path)


def save_deflated(data: pydicom.FileDataset, path: Path) -> None:
    """Level 6, which archives use."""
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_series(folder: Path, syntax: str | None, slices: int, size: int) -> None:
    """A synthetic head as from a modern scanner, 160 mm in `slices` of `size`², 12 bits unsigned.

    syntax: a compressed transfer syntax's UID; None: Explicit VR Little Endian.
    """
    gap = 160 / slices
    positions = np.array([-113.0, -107.0, -20.0]) + np.arange(slices)[:, None] * np.array([0, 0, gap])
    noise = np.random.default_rng(0).normal(0, 5, (size, size))
    spacing = 0.45 * 512 / size
    acquisition = Acquisition(positions, spacing=(spacing, spacing), matrix=(size, size))
    for number, position in enumerate(positions):
        hu = head(CENTRE + (acquisition.points(position) - CENTRE) / 1.3) + noise
        stored = np.clip(np.rint(hu) + 1024, 0, 2**BITS - 1).astype(np.uint16)
        attributes = {**acquisition.attributes(position), "InstanceNumber": number + 1}
        attributes |= {"BitsStored": BITS, "HighBit": BITS - 1, "RescaleIntercept": -1024}
        uid = f"1.2.3.4.{number + 1}"
        data = ct_image(stored, **attributes, SOPInstanceUID=uid)
        data.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        path = folder / f"{number:04d}"
        if syntax is None:
            save(data, path)
        else:
            compress(data, syntax, path)


class Side:
    """One version of the code, in a process that measures tasks on request."""

    def __init__(self, tree: Path, work: Path) -> None:
        work.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "codecs_side.py"), str(tree), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
        )

    def task(self, series: Path) -> tuple[float, str]:
        """CPU seconds of a task, and on the first call CRC-32 and source digest of its result."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{series}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["made"]

    def close(self) -> None:
        self._process.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="the other version's folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slices", type=int, default=160)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--syntaxes", nargs="+", choices=SYNTAXES, default=list(SYNTAXES))
    options = parsed(parser, arguments, rounds=1, slices=24, size=64, syntaxes=["JPEG Lossless SV1"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = list(dict.fromkeys(["uncompressed", *options.syntaxes]))
        for syntax in names:
            write_series(folder / syntax, SYNTAXES[syntax], options.slices, options.size)
        trees = {"this": HERE.parents[1]} | ({"other": options.against} if options.against else {})
        sides = {side: Side(tree.resolve(), folder / f"work {side}") for side, tree in trees.items()}
        best = {(side, syntax): float("inf") for side in sides for syntax in names}
        made = set()
        for number in range(options.rounds + 1):
            for syntax in names:
                for side in sides:
                    seconds, one = sides[side].task(folder / syntax)
                    if not number:  # the first compiles
                        made.add(one)
                    else:
                        best[side, syntax] = min(best[side, syntax], seconds)
        if len(made) != 1:
            sys.exit(f"voxels or digests differ: {sorted(made)}")
        for ended in sides.values():
            ended.close()
    heading("transfer syntax", "this, CPU ms", *(["other, CPU ms", "ratio"] if options.against else []))
    for syntax in names:
        ours, other = best["this", syntax], best.get(("other", syntax))
        row(syntax, f"{1000 * ours:.0f}", *([f"{1000 * other:.0f}", f"{other / ours:.2f}"] if other else []))


if __name__ == "__main__":
    main()
