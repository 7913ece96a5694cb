"""`fmct export-model`: an encoder as a file that runs without this package (torch.export or ONNX)."""

import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.export import Dim, ExportedProgram

from fmct_hpc.fields import edges
from fmct_hpc.train.export import EncoderInfo, load_encoder
from shards.atomic import atomic_path, write_bytes
from shards.errors import FmctError
from shards.output_paths import require_file

TOLERANCE = 1e-5
"""Maximum difference of a token from the encoder's; tokens are of order 1 after LayerNorm."""

Run = Callable[[Tensor], Tensor]


def export_model(source: Path, out: Path) -> str:
    """Write the encoder.safetensors `source` to `out`, a *.pt2 (torch.export) or *.onnx; returns a summary.

    Input "views": float32 (B, C, D, H, W), any B, windowed to [0, 1]; output: tokens (B, prefix + N, width).
    The file is read back and compared with the encoder before it gets its name. A JSON file beside it
    describes the input. Raises FmctError for another file type, missing packages for ONNX, an `out` that is
    the source, cannot be written or is of another encoder, and for tokens beyond `TOLERANCE`.
    """
    writers = {".pt2": _write_torch, ".onnx": _write_onnx}
    if out.suffix not in writers:
        raise FmctError(f"{out}: expected a name that ends in {' or '.join(writers)}")
    require_file(out, source, source.with_suffix(".json"))
    encoder, info = load_encoder(source)
    _require_same_encoder(out, info)
    size, channels = edges(info.data.view_size), len(info.data.windows)
    views = torch.rand(3, channels, *size, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(encoder, (views[:2],), dynamic_shapes=({0: Dim("batch")},))
    with atomic_path(out) as temporary, torch.no_grad():
        run = writers[out.suffix](program, temporary)
        difference = max(float((run(part) - encoder(part)).abs().max()) for part in (views, views[:1]))
        if not difference <= TOLERANCE:
            raise FmctError(
                f"{out}: its tokens differ by {difference:.1e}, more than {TOLERANCE}; not written"
            )
    write_bytes(out.with_suffix(".json"), source.with_suffix(".json").read_bytes())
    return f"{out}: views {tuple(views.shape[1:])} in batches of any size; tokens within {difference:.1e}"


def _require_same_encoder(out: Path, info: EncoderInfo) -> None:
    """Raise FmctError where `out` or its JSON file exists and is not an earlier export of this training."""
    description = out.with_suffix(".json")
    if not out.exists() and not description.exists():
        return
    try:
        other = EncoderInfo.from_record_json(description.read_bytes())
        same = all(
            getattr(other, fact) == getattr(info, fact) for fact in ("origin", "dataset_digest", "model")
        )
    except (OSError, ValidationError):
        same = False
    if not same:
        existing = description if description.exists() else out
        raise FmctError(f"{existing}: exists and is of another encoder; name another file, or move it away")


def _write_torch(program: ExportedProgram, path: Path) -> Run:
    buffer = BytesIO()  # torch aborts on a full disk
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: ExportedProgram, path: Path) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's ONNX exporter needs it
    except ImportError as error:
        raise FmctError(
            f"ONNX needs packages that are not installed ({error.name}): pip install fmct-hpc[onnx]"
        ) from None
    # The exporter warns about every torchvision operator that it does not support.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    written = torch.onnx.export(program, input_names=["views"], output_names=["tokens"], verbose=False)
    assert written is not None
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda views: torch.from_numpy(session.run(None, {"views": views.numpy()})[0])
