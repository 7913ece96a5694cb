"""`fmct convert-weights`: convert a checkpoint of the reference to an encoder of this package, and back."""

import pickle
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fmct_hpc.data.config import DataConfig
from fmct_hpc.model.reference import Network, Part, from_reference, to_reference
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.train.export import EncoderInfo, encoder_info, load_encoder, write_encoder
from shards.atomic import write_bytes
from shards.errors import FmctError, raise_refusal
from shards.info import sha256
from shards.output_paths import require_file, require_folder

_WINDOWS = {1: ((40, 300),), 3: ((40, 80), (80, 200), (600, 2800))}
"""(level, width) in HU by number of channels (`loading_transforms` in the reference's transforms.py)."""
_DICTIONARY = {"student": "state_dict", "teacher": "momentum_model_state_dict"}
"""Key of each network in the reference's `save_checkpoint`; its downstream programs load the student."""
_PARTS: tuple[Part, ...] = ("head", "decoder")


def convert_weights(
    source: Path,
    out: Path,
    network: Literal["student", "teacher"] = "student",
    heads: int | None = None,
    decoder_heads: int | None = None,
) -> str:
    """Convert a file, in the direction given by its type; returns a one-line summary.

    A checkpoint of the reference becomes the folder `out` with encoder.safetensors, encoder.json and, for a
    DINO or MAE checkpoint, head.safetensors or decoder.safetensors. An encoder.safetensors, together with
    such a file beside it, becomes the file `out` for the reference's `load_model`. heads, decoder_heads: see
    `from_reference`. Raises FmctError for other files, and where `out` is the source, cannot be written, or
    holds another encoder.
    """
    if source.suffix == ".safetensors":
        return _to_reference(source, out)
    require_folder(out)
    state = _read(source, _DICTIONARY[network])
    try:
        converted = from_reference(state, heads, decoder_heads)
    except FmctError as error:
        raise FmctError(f"{source}: {error}") from None
    _require_fit(source, converted)
    if converted.channels not in _WINDOWS:
        raise FmctError(f"{source}: {converted.channels} channels; the reference has 1 or 3 windows")
    info = EncoderInfo(
        step=0,
        model=converted.model,
        data=DataConfig.model_validate(
            {
                **{"path": "", "windows": _WINDOWS[converted.channels]},
                **{"view_size": converted.view_size, "field": "squeezed"},
            }
        ),
        spacing_mm=(1.0, 1.0, 1.0),
        code_version=version("fmct-hpc"),
        origin=f"{source.name}, {network}, sha256 {sha256(source)}",
    )
    _require_same_origin(out, info.origin)
    for part in _PARTS:
        (out / f"{part}.safetensors").unlink(missing_ok=True)
    if converted.part:
        weights = {n: t for n, t in converted.weights.items() if not n.startswith("encoder.")}
        write_bytes(out / f"{converted.part}.safetensors", save(weights))
    write_encoder(out, converted.weights, info)
    beside = f" with its {converted.part}" if converted.part else ""
    return f"{out / 'encoder.safetensors'}: the reference's {network}{beside}, {_describe(converted)}"


def _require_same_origin(out: Path, origin: str) -> None:
    """Raise FmctError where `out` has an encoder of another origin: a run, or another file."""
    existing = out / "encoder.safetensors"
    if existing.exists():
        other = encoder_info(existing).origin
        if other != origin:
            raise FmctError(f"{existing}: is another encoder ({other}); name another folder, or move it away")


def _require_fit(source: Path, network: Network) -> None:
    """Raise FmctError where the shapes of the weights are not those of one encoder."""
    with torch.device("meta"):
        built = VisionTransformer(network.model, network.channels, network.view_size).state_dict()
    for name, tensor in built.items():
        given = network.weights[f"encoder.{name}"]
        if given.shape != tensor.shape:
            raise FmctError(
                f"{source}: {name} has shape {tuple(given.shape)}, but the other weights imply "
                f"{tuple(tensor.shape)}"
            )


def _to_reference(source: Path, out: Path) -> str:
    beside = (source.with_name(f"{part}.safetensors") for part in _PARTS)
    require_file(out, source, source.with_suffix(".json"), *beside)
    encoder, info = load_encoder(source)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    parts: list[Part] = [part for part in _PARTS if source.with_name(f"{part}.safetensors").is_file()]
    part = parts[0] if parts else ""
    if part:
        weights |= load_file(source.with_name(f"{part}.safetensors"))
    network = Network(info.model, len(info.data.windows), info.data.view_size, part, weights)
    state = to_reference(network)
    document = {
        "epoch": 0,
        "best_loss": 0.0,
        "state_dict": {_wrapped(name, part): tensor for name, tensor in state.items()},
        "momentum_model_state_dict": None,
    }
    buffer = BytesIO()  # torch.save to a file raises no OSError on a full disk
    torch.save(document, buffer)
    write_bytes(out, buffer.getvalue())
    return f"{out}: in the reference's layout, {_describe(network)}"


def _wrapped(name: str, part: Part) -> str:
    """A name as the reference's training programs save it."""
    is_backbone = part != "decoder" and not name.startswith("head.")
    return f"module.backbone.{name}" if is_backbone else f"module.{name}"


def _describe(network: Network) -> str:
    model = network.model
    count = sum(t.numel() for n, t in network.weights.items() if n.startswith("encoder."))
    return (
        f"width {model.width}, depth {model.depth}, {model.heads} heads, patch {model.patch_size} on "
        f"{network.view_size}, {model.register_tokens} registers, {count:,} parameters in the encoder"
    )


def _read(source: Path, key: str) -> dict[str, Tensor]:
    """The state dictionary in a file of torch.save, loaded without running code from the file."""
    if not source.is_file():
        raise FmctError(f"{source}: no such file")
    try:
        # best_loss is a NumPy scalar in the reference's checkpoints (see its loader).
        with torch.serialization.safe_globals(_numpy_scalars()):
            document: Any = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise_refusal(error, source)
        raise FmctError(f"{source}: not a checkpoint of torch.save ({type(error).__name__})") from None
    if isinstance(document, dict) and "state_dict" in document:
        document = document.get(key)
        if document is None:
            raise FmctError(f"{source}: has no {key}; MAE checkpoints have no teacher")
    if not isinstance(document, dict) or not all(isinstance(value, Tensor) for value in document.values()):
        raise FmctError(f"{source}: neither a state dictionary nor a checkpoint with one")
    return document


def _numpy_scalars() -> list[Any]:
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
