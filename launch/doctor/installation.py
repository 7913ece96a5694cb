"""Checks of this machine: Python, packages, the path from a volume to a view, GPU, system limits."""

import locale
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from launch.doctor.finding import Finding, Problem, fault, note, run_check
from launch.doctor.shared import check_environment
from launch.program import PYTHON
from launch.schedulers import scheduler
from shards import Dataset, DecodeFacts, ShardWriter, VolumeRecord, crc32, finish_dataset
from shards.formats import FORMATS
from shards.job import without_job
from shards.layers import absent_layers

MIN_PYTHON = (3, 11)
MIN_OPEN_FILES = 4096
"""Readers, connections to the other ranks and libraries need some hundred, plus a margin."""
MIN_SHARED_BYTES = 2**30
"""For NCCL's buffers between the GPUs of a node; a container's default of 64 MB is too small."""
SECONDS = 300
"""First imports from a slow file system take minutes."""
DRIVER = Path("/proc/driver/nvidia/version")
"""Version file of NVIDIA's kernel driver."""
AGAIN = "bash launch/environment.sh .venv"

_SYNTAXES = {
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}
JOIN = """
import sys, torch, torch.distributed as dist
from fmct_hpc.train.process_group import join
place = join(sys.argv[1])
one = torch.ones(1, device=place.device)
dist.all_reduce(one)
if one.item() != 1:
    sys.exit(f"the sum of a single 1 is {one.item()}")
dist.destroy_process_group()
"""


def check_installation() -> Iterator[Finding]:
    """Check what training and preprocessing need of this machine; takes about ten seconds."""
    for name, check in checks().items():
        yield run_check(name, check)
    yield from check_environment()


def checks() -> dict[str, Callable[[], str | Problem]]:
    """The checks of this machine by name, in order."""
    return {
        "Python": _python,
        "packages": _packages,
        "DICOM codecs": _of_layer("preprocess", _codecs),
        "GPU": _gpu,
        "DeepSpeed": _of_layer("train", _deepspeed),
        "shards, DALI": _of_layer("gpu", _views),
        "C++ compiler": _compiler,
        "shared memory": _shared_memory,
        "limits": _limits,
        "locale": _locale,
        "temporary files": _temporary,
    }


def _python() -> str | Problem:
    installed = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return fault(f"{installed}, 3.11 or newer is needed", "make the environment with a newer python3")
    return f"{installed} in {sys.prefix}"


def _packages() -> str | Problem:
    """Compare the installed packages of the core and the installed layers with pyproject.toml."""
    try:
        declared = [Requirement(line) for line in requires("fmct-hpc") or []]
    except PackageNotFoundError:
        return fault("fmct-hpc runs from its source and is not installed", f"{AGAIN}, or pip install .")
    wanted = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    absent = []
    for layer in ("preprocess", "train", "gpu", "report", "slurm"):
        own = [r for r in declared if r not in wanted and r.marker and r.marker.evaluate({"extra": layer})]
        if layer in absent_layers():
            absent.append(f"[{layer}]")
        else:
            wanted += own
    wrong = []
    for requirement in wanted:
        try:
            if not requirement.specifier.contains(found := version(requirement.name), prereleases=True):
                wrong.append(f"{requirement.name} {found}, not {requirement.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
    if wrong:
        return fault(", ".join(wrong), f"{AGAIN} makes an environment with the tested versions")
    found = f"fmct-hpc {version('fmct-hpc')} and its {len(wanted)} packages as declared"
    if absent:
        return note(f"{found}; not installed: {', '.join(absent)}", "none, if they are not needed here")
    return found


def _of_layer(layer: str, check: Callable[[], str | Problem]) -> Callable[[], str | Problem]:
    """The check, or a note if its layer is not installed."""
    if layer not in absent_layers():
        return check
    return lambda: note(f"the layer [{layer}] is not installed", f"pip install 'fmct-hpc[{layer}]'")


def _codecs() -> str | Problem:
    from pydicom.pixels import get_decoder

    missing = [name for name, uid in _SYNTAXES.items() if not get_decoder(uid).is_available]
    if missing:
        return fault(
            f"no decoder for {', '.join(missing)}: such series would all be rejected",
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, as pyproject.toml pins them",
        )
    return ", ".join(_SYNTAXES)


def _driver() -> str | None:
    """NVIDIA's kernel driver, if one is loaded."""
    try:
        return DRIVER.read_text().splitlines()[0].split("  ")[1].strip()
    except (OSError, IndexError):
        return None


def _device() -> str:
    return "gpu" if _has_gpu() else "cpu"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpu() -> str | Problem:
    import torch

    driver, build = _driver(), torch.version.cuda
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
        summary = f"{torch.cuda.device_count()} × {', '.join(sorted(names))}, driver {driver}, CUDA {build}"
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return note(f"{summary}, NCCL {nccl}: no bfloat16", "train with engine.precision=fp32")
        return f"{summary}, NCCL {nccl}"
    if driver and build is None:
        return fault(
            f"driver {driver} is installed, but PyTorch {torch.__version__} is built for CPUs",
            "unset PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS, then bash launch/environment.sh .venv --gpu",
        )
    if driver:
        return fault(
            f"PyTorch for CUDA {build} finds no GPU under driver {driver}",
            "install a newer driver, or make the GPUs visible: check nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
    return note(
        "no GPU: a login node or a CPU machine",
        f"none, if other nodes have GPUs; check one of them: {scheduler().on_node('fmct doctor', gpus=1)}",
    )


def _deepspeed() -> str | Problem:
    """Join a process group of one rank as training does, and reduce a number."""
    device = _device()
    kept = without_job(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    done = subprocess.run(
        [*PYTHON, "-c", JOIN, device],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=kept,
        timeout=SECONDS,
    )
    backend = "NCCL" if device == "gpu" else "gloo"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        return fault(f"a process group over {backend} fails: {last}", f"fix this error, or {AGAIN}")
    return f"DeepSpeed {version('deepspeed')}, a process group over {backend}"


def _views() -> str | Problem:
    """A volume through both shard formats, a reader process, and the DALI graph."""
    device = _device()
    from fmct_hpc.data.config import DataConfig
    from launch.doctor.dataset import one_batch

    z, y, x = np.ogrid[-1:1:64j, -1:1:64j, -1:1:64j]
    voxels = np.where(z**2 + y**2 + x**2 < 0.8, 40, -1000).astype(np.int16)
    with tempfile.TemporaryDirectory(prefix="fmct-doctor-") as folder:
        for format in FORMATS:
            path = Path(folder) / format
            with ShardWriter(path, "shard-00000", format) as shard:
                shard.add(_record(voxels), voxels)
            finish_dataset(path, format, ["shard-00000"])
            if not np.array_equal(Dataset.open(path).read(0), voxels):
                return fault(f"{format}: the voxels read differ from those written", AGAIN)
        shape = one_batch(DataConfig(path=Path(folder) / "zarr", view_size=24, workers=1), 1, device)
    return f"zarr and webdataset read as written, views {shape} from DALI {version(_DALI)} on the {device}"


_DALI = "nvidia-dali-cuda130"


def _record(voxels: np.ndarray) -> VolumeRecord:
    facts = DecodeFacts(
        kernel_class="soft",
        kvp=None,
        slice_thickness_mm=None,
        gantry_tilt_deg=0.0,
        slices=len(voxels),
        slice_gap_mm=(3.0, 3.0),
        matrix=voxels.shape[1:],
        pixel_spacing_mm=(3.0, 3.0),
        manufacturer="other",
        transfer_syntax="1.2.840.10008.1.2.1",
    )
    return VolumeRecord(
        key="0" * 32,
        patient_key="0" * 32,
        study_key="0" * 32,
        shape=voxels.shape,
        spacing_mm=(3.0, 3.0, 3.0),
        affine=(0, 0, -3, 0, 0, -3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1),
        crc32=crc32(voxels),
        source_digest="0" * 64,
        config_digest="0" * 64,
        facts=facts,
    )


def _compiler() -> str | Problem:
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    return compiler or note("none: only engine.compile needs one", "install g++ to use engine.compile")


def _shared_memory() -> str | Problem:
    free = shutil.disk_usage("/dev/shm").free
    summary = f"{free / 1e9:.1f} GB free in /dev/shm"
    if free < MIN_SHARED_BYTES:
        return fault(
            f"{summary}: with several GPUs NCCL exchanges data there, and fails or is killed by SIGBUS",
            "mount it larger (containers: --shm-size=1g); not needed with one GPU or none",
        )
    return summary


def _limits() -> str | Problem:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = f"{soft} open files"
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        how = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536} in the site file's setup"
        if 0 < hard < MIN_OPEN_FILES:
            how = f"the hard limit is {hard}: have an administrator raise it (limits.conf, LimitNOFILE)"
        return fault(f"{limit}, at least {MIN_OPEN_FILES} are needed", how)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if _has_gpu() and locked != resource.RLIM_INFINITY:
        return note(
            f"{limit}; {locked // 1024} KiB of locked memory",
            "with InfiniBand: ulimit -l unlimited; otherwise none",
        )
    return limit


def _locale() -> str | Problem:
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8" or sys.getfilesystemencoding() != "utf-8":
        return fault(
            f"text is read as {encoding}, but recipes, labels and file names may have other characters",
            "export LC_ALL=C.UTF-8 (in the site file's setup too), or PYTHONUTF8=1",
        )
    return "UTF-8"


def _temporary() -> str | Problem:
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**20))
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(folder).free
    if free < 2**30:
        return note(f"{folder}: {free / 1e9:.1f} GB free", "set TMPDIR to a folder with more space")
    return f"{folder}: {free / 1e9:.0f} GB free"
