"""The masked autoencoder (He et al. 2022).

Its encoder gets only the visible patches. Attention over other tokens changes all activations, so MAE cannot
use the shared pass and has a separate, shorter pass through the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from fmct_hpc.fields import AtLeast0
from fmct_hpc.model.patches import patchify, unpatchify, visible_patches
from fmct_hpc.model.size import (
    decoder_flops,
    decoder_parameters,
    embedding_flops,
    encoder_flops,
    patches_per_view,
    prefix_tokens,
    tokens_per_view,
)
from fmct_hpc.objective.draws import generator, path_scales, rope_boxes
from fmct_hpc.objective.part import Costs, ForwardPass, Gallery, Part, PartLoss
from shards.section import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fmct_hpc.objective.student import Student

TARGET_EPS = 1e-6
"""Added to a patch's variance, which is 0 in air (as in MAE's published code)."""
_STREAM = int.from_bytes(b"masks")


class MaeKeys(Section):
    """MAE's keys."""

    mae_weight: AtLeast0 = 1.0
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """He et al. 2022, figure 5."""
    normalise_patches: bool = True
    """Whether MAE's targets are normalised per patch (He et al. 2022, table 1d)."""


class Kept(NamedTuple):
    """The input of MAE's encoder."""

    keep: Tensor
    """int64 (B, v): the visible patches, ascending, as positions among the first view's kept patches."""
    path_scales: Tensor | None
    """float32 (B, depth, 2): factors of the blocks' branches; None without drop path."""
    rope_boxes: Tensor | None
    """`draws.rope_boxes`."""


class Mae(Part):
    """Reconstructs the masked patches of the first view from the visible ones."""

    name = "mae"
    title = "MAE"
    shares_pass = False
    needs = ("partial",)
    gallery = Gallery(
        "reconstruction",
        "Slices of a view through its middle (axial, coronal, sagittal), its visible patches, and the "
        "decoder's reconstruction. With normalised targets, each patch is shown with its true mean and "
        "deviation, as in MAE's figures.",
    )

    def require(self) -> None:
        """Raise ValueError where no patch is masked."""
        patches, ratio = patches_per_view(self.config), self.config.objective.mask_ratio
        if visible_patches(patches, ratio) == patches:
            raise ValueError(
                f"objective.mask_ratio={ratio} masks none of a view's {patches} patches: raise it, "
                "model.keep_tokens or data.view_size"
            )

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """The decoder."""
        from fmct_hpc.model.decoder import MaeDecoder

        data = self.config.data
        return {"decoder": MaeDecoder(self.config.model, len(data.windows), data.view_size)}

    def draw(self, step: int, samples: NDArray[np.int64]) -> Kept:
        """The visible patches, and path scales with the draws after those of all views."""
        seed, model, views = self.config.run.seed, self.config.model, self.config.data.views
        ratio = self.config.objective.mask_ratio
        keep = keep_indices(seed, step, samples, patches_per_view(self.config), ratio)
        scales, boxes = None, rope_boxes(self.config, step)
        if model.drop_path:
            scales = path_scales(seed, step, samples, views + 1, model.depth, model.drop_path)[views]
        return Kept(keep, scales, boxes)

    def loss(self, forward: ForwardPass) -> PartLoss:
        """`mae_loss` of the first view."""
        from fmct_hpc.model.decoder import MaeDecoder
        from fmct_hpc.model.vit import take_tokens

        encoder, view, drawn = forward.network.encoder, forward.views.whole[0], forward.drawn
        kept = encoder.kept(view)
        target = patchify(encoder.standardise(view), encoder.patch_size).float()
        target = target if kept is None else take_tokens(target, kept)
        if self.config.objective.normalise_patches:
            target = normalise_patches(target)
        numbers = among(kept, drawn.keep)
        visible = encoder(view, numbers, path_scales=drawn.path_scales, rope_boxes=drawn.rope_boxes)
        predicted = forward.module("decoder", MaeDecoder)(visible, drawn.keep, kept)
        return PartLoss(mae_loss(predicted, target, drawn.keep))

    def parameters(self) -> dict[str, int]:
        """Parameters of the decoder."""
        return {"decoder": decoder_parameters(self.config)}

    def costs(self) -> Costs:
        """Costs of the encoder on the visible patches, and of the decoder on all kept patches."""
        config, model = self.config, self.config.model
        visible = visible_patches(patches_per_view(config), config.objective.mask_ratio)
        return Costs(
            student=encoder_flops(config, visible) + decoder_flops(config, visible),
            unneeded=embedding_flops(config, visible),
            tokens=prefix_tokens(model) + visible,
            cells=tokens_per_view(config) * model.decoder_width * model.decoder_depth,
        )

    def picture(self, student: Student, view: Tensor, drawn: Any) -> dict[str, Tensor]:
        """The view, its visible patches, and the reconstruction."""
        import torch

        size = self.config.model.patch_size
        patches = patchify(view, size)
        numbers = among(student.encoder.kept(view), drawn.keep)
        visible = torch.zeros(patches.shape[:2], device=patches.device).scatter(1, numbers, 1.0)
        shown = unpatchify(patches * visible.unsqueeze(-1), size, view.shape[2:])
        rebuilt = reconstruct(student, view, drawn.keep, self.config.objective.normalise_patches)
        return {"input": view[0], "visible": shown[0], "reconstruction": rebuilt[0]}


def among(kept: Tensor | None, places: Tensor) -> Tensor:
    """Patch numbers from positions, int64 (B, v), among the kept patches (B, n); None: all are kept."""
    return places if kept is None else kept.gather(1, places)


def normalise_patches(patches: Tensor) -> Tensor:
    """Patches (..., P) normalised to mean 0 and variance 1 (He et al. 2022, "Reconstruction target")."""
    import torch

    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + TARGET_EPS).sqrt()


def mae_loss(predicted: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error over the masked patches, a float32 scalar.

    predicted, target: (B, n, P); keep: int64 (B, v), the visible patches, which are excluded.
    """
    import torch

    error = (predicted.float() - target.float()).square().mean(dim=-1)
    masked = torch.ones_like(error).scatter(1, keep, 0.0)
    return (error * masked).sum() / masked.sum()


def keep_indices(seed: int, step: int, samples: NDArray[np.int64], patches: int, mask_ratio: float) -> Tensor:
    """Numbers of MAE's visible patches, ascending: int64 (B, v), v at least 1."""
    import torch

    visible = visible_patches(patches, mask_ratio)
    kept = np.empty((len(samples), visible), dtype=np.int64)
    for row, sample in zip(kept, samples, strict=True):
        row[:] = np.sort(generator(seed, _STREAM, step, int(sample)).permutation(patches)[:visible])
    return torch.from_numpy(kept)


def reconstruct(student: Student, view: Tensor, keep: Tensor, normalised: bool) -> Tensor:
    """The reconstruction of view (B, C, D, H, W) from its patches `keep` (`Kept.keep`), in the same shape.

    Visible patches, and those that are not kept, are copied from the view. With normalised targets,
    predictions get each patch's true mean and deviation, as in MAE's published figures.
    """
    import torch

    encoder = student.encoder
    kept = encoder.kept(view)
    numbers = among(kept, keep)
    truth = patchify(encoder.standardise(view), encoder.patch_size).float()
    with torch.no_grad():
        predicted = student.get_submodule("decoder")(encoder(view, numbers), keep, kept).float()
    own = torch.zeros(truth.shape[:2], dtype=torch.bool, device=truth.device)
    if kept is not None:
        predicted = torch.zeros_like(truth).scatter(1, kept.unsqueeze(-1).expand_as(predicted), predicted)
        own = ~own.scatter(1, kept, True)
    if normalised:
        predicted = predicted * truth.std(dim=-1, keepdim=True) + truth.mean(dim=-1, keepdim=True)
    patch, size = encoder.patch_size, view.shape[2:]
    values = patchify(encoder.standardise.inverse(unpatchify(predicted, patch, size)), patch)
    own = own.scatter(1, numbers, True).unsqueeze(-1)
    return unpatchify(torch.where(own, patchify(view, patch).float(), values), patch, size)
