"""`fmct export-model --hub`: export an encoder for transformers, or for PyTorch without this package."""

import json
import secrets
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from fmct_hpc.data.kernel import AIR_HU
from fmct_hpc.hub.bundle import bundle
from fmct_hpc.hub.card import card, require_licence
from fmct_hpc.hub.config_json import describe
from fmct_hpc.hub.counts import counts_of
from fmct_hpc.hub.load import CONFIG, PREFIX, WEIGHTS, build
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.train.export import EncoderInfo, load_encoder
from fmct_hpc.train.portable import TOLERANCE
from shards.atomic import TEMPORARY_SUFFIX, sync
from shards.errors import FmctError
from shards.output_paths import require_folder

CODE, MODEL_CODE, CARD = "fmct_encoder.py", "modeling_fmct.py", "README.md"
FILES = {CONFIG, WEIGHTS, CODE, MODEL_CODE, CARD}
ROOTS = {"fmct_hpc.hub.load": ("build", "load"), "fmct_hpc.hub.prepare": ("prepare", "view")}
"""Public functions of the self-contained code."""


def export_hub(source: Path, out: Path, licence: str | None, data: Path | None = None) -> str:
    """Write the encoder of `source` to the folder `out` atomically; returns a summary.

    source: a run folder or an encoder.safetensors. licence: of the weights, for the card. data: the training
    dataset, counted for the card; by default at the path recorded by the run. Before it gets its final name,
    the folder is loaded with its own code, whose tokens must equal the encoder's to 1e-5. Raises FmctError if
    they do not, without a licence, if `data` is another dataset, and if `out` has other files.
    """
    licence = require_licence(licence)
    file = source / "encoder.safetensors" if source.is_dir() else source
    require_folder(out, source)
    encoder, info = load_encoder(file)
    if not isinstance(encoder, VisionTransformer):
        raise FmctError(f"{file}: model.kind is {info.model.kind}; the export requires model.kind=vit")
    _require_ours(out, info)
    counts = counts_of(file.parent, info, data)
    described = describe(info)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        _write(temporary, encoder, described, card(info, _size(encoder), licence, counts))
        difference = _difference(temporary, encoder, info)
        if not difference <= TOLERANCE:
            raise FmctError(
                f"{out}: input or tokens differ by {difference:.1e}, more than {TOLERANCE}; not written"
            )
        _replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return f"{out}: for transformers and plain PyTorch; tokens within {difference:.1e}"


def code() -> str:
    """The self-contained module: network, loader and preparation of the input."""
    return bundle(
        ROOTS,
        "An encoder of head CT for PyTorch, NumPy and safetensors: load(folder), prepare(hu, ...).\n\n"
        "Made of the source of fmct-hpc (Apache-2.0) by `fmct export-model --hub`; do not edit.",
    )


def _write(folder: Path, encoder: VisionTransformer, described: dict[str, Any], text: str) -> None:
    persistent = build(described["fmct"])
    persistent.load_state_dict(encoder.state_dict(), strict=False)
    weights = {f"{PREFIX}{name}": one.contiguous() for name, one in persistent.state_dict().items()}
    written = {
        WEIGHTS: save(weights, metadata={"format": "pt"}),
        CONFIG: json.dumps(described, indent=1).encode() + b"\n",
        CODE: code().encode(),
        MODEL_CODE: (Path(__file__).parent / "templates" / MODEL_CODE).read_bytes(),
        CARD: text.encode(),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
        sync(folder / name)
    sync(folder)


def _difference(folder: Path, encoder: VisionTransformer, info: EncoderInfo) -> float:
    """Maximum absolute difference of input and tokens between the folder's code and the encoder."""
    module = _imported(folder / CODE)
    loaded, preprocessing = module.load(folder)
    noise = np.random.default_rng(0).normal(0, 40, (24, 30, 28))
    d, h, w = np.ogrid[-1:1:24j, -1:1:30j, -1:1:28j]
    hu = np.where(d**2 + h**2 + w**2 < 0.8, 40 + noise, AIR_HU)
    spacing = [info.data.field_mm / 30] * 3
    views = info.view(hu, spacing)
    with torch.no_grad():
        tokens = (loaded(views) - encoder(views)).abs().max()
    return max(float(tokens), float((module.view(hu, spacing, preprocessing) - views).abs().max()))


def _imported(file: Path) -> ModuleType:
    spec = spec_from_file_location("fmct_encoder_of_export", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ in the folder
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept
    return module


def _replace(finished: Path, out: Path) -> None:
    """Rename the finished folder to `out`; an earlier export there is then removed."""
    aside = finished.with_name(f"{finished.name}.old")
    if out.exists():
        out.rename(aside)
    finished.rename(out)
    sync(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _require_ours(out: Path, info: EncoderInfo) -> None:
    """Raise FmctError if the folder has anything except an earlier export of this training."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        existing = json.loads((out / CONFIG).read_bytes())["fmct"]
        new = describe(info)["fmct"]
        same = existing["model"] == new["model"] and all(
            existing["training"][key] == new["training"][key] for key in ("origin", "dataset_digest")
        )
        same = same and {one.name for one in out.iterdir()} <= {*FILES, "__pycache__"}
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise FmctError(
            f"{out}: has files other than an export of this encoder; use another folder, or move them away"
        )


def _size(encoder: VisionTransformer) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())
