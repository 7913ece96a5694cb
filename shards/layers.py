"""The optional layers of the package, and the one-line error for a missing layer.

pyproject.toml declares them as optional dependencies; the rest is the core: shards and inference.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from shards.errors import FmctError

LAYERS: dict[str, tuple[str, ...]] = {
    "preprocess": (
        *("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "indexed_gzip", "zlib_ng"),
        *("nibabel", "PIL", "jinja2"),
    ),
    "train": ("deepspeed", "ninja", "tensorboard", "sklearn", "matplotlib", "PIL"),
    "report": ("matplotlib", "sklearn", "PIL", "jinja2"),
    "slurm": ("submitit",),
    "gpu": ("nvidia.dali",),
    "import": ("SimpleITK",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "peers": ("monai", "transformers"),
    "search": ("faiss",),
    "seg": ("highdicom",),
}
"""Modules of each layer, by import name."""
HOMES = {
    "preprocess": "preprocess",
    "launch.report": "report",
    "launch.study": "report",
    "launch.slurm": "slurm",
    "launch.pipeline": "slurm",
    "launch.jobs": "slurm",
    "fmct_hpc": "train",
}
"""The layer to recommend for a package's import, if a module is in several."""


class MissingLayerError(FmctError):
    """A command or function needs a layer that is not installed."""


def missing_layer(error: ModuleNotFoundError) -> MissingLayerError | None:
    """The one-line error for a missing module of a layer; None for any other module."""
    name = (error.name or "").partition(".")[0]
    layers = [layer for layer, modules in LAYERS.items() if name in {m.partition(".")[0] for m in modules}]
    if not layers:
        return None
    asking = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    wanted = [
        layer
        for module in reversed(asking)
        for home, layer in HOMES.items()
        if layer in layers and (module == home or module.startswith(f"{home}."))
    ]
    layer = (wanted or layers)[0]
    cpu = "; without a GPU, launch/environment.sh installs DALI alone" if layer == "gpu" else ""
    return MissingLayerError(f"{name} requires the layer [{layer}]: pip install 'fmct-hpc[{layer}]'{cpu}")


def absent_layers() -> frozenset[str]:
    """The layers that are not installed, judged by the first module of each."""
    return frozenset(layer for layer, modules in LAYERS.items() if not _is_there(modules[0]))


def _is_there(module: str) -> bool:
    parent = module.partition(".")[0]
    return find_spec(parent) is not None and find_spec(module) is not None


@contextmanager
def named_layers() -> Iterator[None]:
    """Replace the ImportError for a module of a layer by MissingLayerError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_layer(error) or error from None
