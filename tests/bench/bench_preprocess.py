"""A scan from DICOM to a shard, compared with its unavoidable steps, and with dcm2niix and MONAI.

    OMP_NUM_THREADS=1 python tests/bench/bench_preprocess.py

needs dcm2niix (Debian's package) and monai, unless `--no-peers` omits their rows. The slices are not
compressed; `bench_codecs.py` compares transfer syntaxes. CPU time of one thread, minimum of several rounds
with interleaved rows, so that other work on the machine has little effect; compare ratios.
"""

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
import torch
from bench_codecs import write_series
from markdown_table import heading, row
from numcodecs import blosc
from pydicom.misc import is_dicom
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from preprocess_export import KEY

from preprocess import run
from preprocess.config import OutputConfig, PreprocessConfig
from preprocess.scan.run import scan
from shards import Dataset, crc32

REAL = Path(__file__).parents[1] / "data" / "ge_head_tilt18"
ZSTD = blosc.Blosc(cname="zstd", clevel=1, shuffle=blosc.BITSHUFFLE)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process and of the programs that it has run."""
    before = time.process_time() + children()
    work()
    return time.process_time() + children() - before


def children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Scan:
    """One series, and all measurements on it."""

    def __init__(self, folder: Path, work: Path):
        self.folder, self.work = folder, work
        self.files = sorted(file for file in folder.iterdir() if is_dicom(file))
        key_file = work / "hmac.key"
        key_file.write_text(KEY)
        key_file.chmod(0o600)
        self.config = PreprocessConfig(key_file=key_file, workers=1, output=OutputConfig(formats=("zarr",)))
        self.rounds = 0
        self.ours()
        self.voxels = Dataset.open(self.out / "zarr").read(0)
        self.slices = self.decode()

    @property
    def out(self) -> Path:
        return self.work / f"out-{self.rounds}"

    def ours(self) -> None:
        """All commands from the folder to the finished dataset: scan, plan, the task, collect with its QC."""
        self.rounds += 1
        catalog = self.work / f"{self.rounds}.parquet"
        scan(self.folder, catalog)
        assert run.plan(catalog, self.out, self.config) == 1
        assert run.run_task(catalog, self.out, 0, self.config).volumes == 1
        run.collect(self.out, self.config)

    def task(self) -> None:
        """Only plan and task: decode, resample, crop, check, de-identify, write the shard and its tables."""
        self.rounds += 1
        catalog = self.work / "1.parquet"
        run.plan(catalog, self.out, self.config)
        assert run.run_task(catalog, self.out, 0, self.config).volumes == 1

    def decode(self) -> np.ndarray:
        images = []
        for file in self.files:
            data = pydicom.dcmread(file)
            images.append(
                data.pixel_array * np.float32(data.RescaleSlope) + np.float32(data.RescaleIntercept)
            )
        return np.stack(images)

    def resample_torch(self) -> None:
        source = torch.from_numpy(self.slices)[None, None]
        torch.nn.functional.interpolate(source, self.voxels.shape, mode="trilinear").short()

    def resample_sitk(self) -> None:
        image = sitk.GetImageFromArray(self.slices)
        scale = [(a - 1) / (b - 1) for a, b in zip(image.GetSize(), self.voxels.shape[::-1], strict=True)]
        sitk.Resample(
            image,
            self.voxels.shape[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            (0, 0, 0),
            scale,
            image.GetDirection(),
        )

    def blosc(self) -> None:
        ZSTD.encode(self.voxels)

    def crc(self) -> None:
        crc32(self.voxels)

    def nifti(self) -> Path:
        """dcm2niix without compression, its fastest mode."""
        folder = self.work / "nifti"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        command = ["dcm2niix", "-z", "n", "-b", "n", "-f", "scan", "-o", str(folder), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
        # For tilted or unevenly spaced series dcm2niix adds corrected copies; the last has all corrections.
        return sorted(folder.glob("*.nii"), key=lambda path: len(path.name))[-1]

    def reference(self, until: int) -> None:
        """The reference's loading chain, its first `until` transforms."""
        from monai import transforms  # for these rows alone

        steps = [
            transforms.LoadImaged(keys=["image"], image_only=True, reader="NibabelReader"),
            transforms.EnsureChannelFirstd(keys=["image"]),
            transforms.Orientationd(keys=["image"], axcodes="RAS", labels=None),
            transforms.Spacingd(keys=["image"], pixdim=(1.0, 1.0, 1.0), mode=3),
            transforms.CropForegroundd(keys=["image"], source_key="image", allow_smaller=False),
            transforms.Lambdad(keys=["image"], func=windows),
            transforms.Resized(keys=["image"], spatial_size=(224, 224, 224)),
            transforms.CastToTyped(keys=["image"], dtype=np.float16),
        ]
        transforms.Compose(steps[:until])({"image": str(self.nifti())})


def windows(image: torch.Tensor) -> torch.Tensor:
    """The reference's three windows as channels, level and width in HU."""
    bounds = ((0, 80), (-20, 180), (-800, 2000))
    return torch.cat([((image - low) / (high - low)).clip(0, 1) for low, high in bounds])


def measure(scan: Scan, rounds: int, peers: bool) -> dict[str, float]:
    """Minimum CPU seconds of each row; peers: also those of dcm2niix and MONAI."""
    rows: dict[str, Callable[[], object]] = {
        "decode": scan.decode,
        "torch": scan.resample_torch,
        "sitk": scan.resample_sitk,
        "blosc": scan.blosc,
        "crc": scan.crc,
        "task": scan.task,
        "ours": scan.ours,
    }
    if peers:
        rows["dcm2niix"] = scan.nifti
        rows["to crop"] = lambda: scan.reference(5)
        rows["to tensor"] = lambda: scan.reference(8)
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(rounds):
        for name, work in rows.items():
            best[name] = min(best[name], cpu_seconds(work))
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=160, help="of the synthetic head")
    parser.add_argument("--size", type=int, default=512, help="of its slices, squared")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    options = parsed(parser, arguments, rounds=1, slices=24, size=64, peers=False)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    heading("scan", "work", "CPU ms", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        thin = Path(folder) / "thin"
        write_series(thin, None, options.slices, options.size)
        inputs = {"GE, 28 tilted slices": REAL, f"thin, {options.slices} slices": thin}
        for name, series in inputs.items():
            work = Path(folder) / f"work {name}"
            work.mkdir()
            best = measure(Scan(series, work), options.rounds, options.peers)
            parts = best["decode"] + min(best["torch"], best["sitk"]) + best["blosc"] + best["crc"]
            table = {
                "bare parts: decode": best["decode"],
                "resample (torch trilinear)": best["torch"],
                "resample (SimpleITK linear)": best["sitk"],
                "blosc zstd-1": best["blosc"],
                "CRC-32": best["crc"],
                "**sum, with the quicker resampling**": parts,
                "**a preprocessing task: DICOM to shard**": best["task"],
                "scan, plan, task, collect with QC": best["ours"],
            }
            if options.peers:
                table["dcm2niix alone"] = best["dcm2niix"]
                table["dcm2niix, MONAI to the cropped 1 mm volume"] = best["to crop"]
                table["dcm2niix, MONAI to the reference's 224³ tensor"] = best["to tensor"]
            for what, seconds in table.items():
                row(name, what, f"{1000 * seconds:.0f}", f"{seconds / parts:.2f}")


if __name__ == "__main__":
    main()
