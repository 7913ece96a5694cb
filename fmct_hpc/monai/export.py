"""`fmct export-model --monai`: export an encoder as a backbone for MONAI, without this package."""

import secrets
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from fmct_hpc.fields import edges
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.monai import fmct_monai
from fmct_hpc.train.export import load_encoder
from fmct_hpc.train.portable import TOLERANCE
from shards.atomic import TEMPORARY_SUFFIX, sync, write_bytes
from shards.errors import FmctError
from shards.output_paths import require_folder

PROGRAM, DESCRIPTION, MODULE = "backbone.pt2", "encoder.json", "fmct_monai.py"


class Maps(nn.Module):
    """Patch tokens after three blocks (a third, two thirds and all of the depth), as maps."""

    def __init__(self, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder
        depth = len(encoder.blocks)
        self.numbers = tuple(max(0, round(depth * k / 3) - 1) for k in (1, 2, 3))

    def forward(self, views: Tensor) -> tuple[Tensor, ...]:
        """(B, C, D, H, W) to (B, width, d, h, w) each, from shallow to deep."""
        blocks = self.encoder.at_blocks(views, self.numbers)
        patches = (tokens[:, self.encoder.prefix :].transpose(1, 2) for tokens in blocks)
        return tuple(one.unflatten(2, self.encoder.grid) for one in patches)


def export_monai(source: Path, out: Path) -> str:
    """Write the encoder.safetensors `source` to the new folder `out`; returns a summary.

    The folder has the program with its weights (torch.export, any batch size), a description of the input,
    and fmct_monai.py, which loads both. Before it gets its final name, the folder is loaded with that file,
    and its maps must equal the encoder's to 1e-5. Raises FmctError if they do not, or if `out` exists.
    """
    if out.exists():
        raise FmctError(f"{out}: exists already; use a new folder")
    require_folder(out)
    encoder, info = load_encoder(source)
    if info.model.keep_tokens < 1:
        raise FmctError(
            f"{source}: encodes only a share of the patches (model.keep_tokens); maps require all of them"
        )
    maps = Maps(encoder).eval()
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(3, len(info.data.windows), *edges(info.data.view_size), generator=generator)
    program = torch.export.export(maps, (views[:2],), dynamic_shapes=({0: Dim("batch")},))
    buffer = BytesIO()  # writing to a file, torch aborts the process if the disk is full
    torch.export.save(program, buffer)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    temporary.mkdir(parents=True)
    try:
        write_bytes(temporary / PROGRAM, buffer.getvalue())
        write_bytes(temporary / DESCRIPTION, source.with_suffix(".json").read_bytes())
        write_bytes(temporary / MODULE, Path(fmct_monai.__file__).read_bytes())
        difference = _difference(temporary, maps, views)
        if not difference <= TOLERANCE:
            raise FmctError(f"{out}: maps differ by {difference:.1e}, more than {TOLERANCE}; not written")
        temporary.rename(out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    grid = " x ".join(map(str, encoder.grid))
    return f"{out}: maps of {grid} after blocks {maps.numbers}; within {difference:.1e} of the encoder's"


@torch.no_grad()
def _difference(folder: Path, maps: Maps, views: Tensor) -> float:
    backbone = load_module(folder).Backbone(folder)
    actual, expected = backbone(views), maps(views)
    return max(float((one - other).abs().max()) for one, other in zip(actual, expected, strict=True))


def load_module(folder: Path) -> Any:
    """Import the folder's code."""
    spec = spec_from_file_location("fmct_monai", folder / MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
