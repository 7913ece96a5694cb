"""Parameters and operations of a model in closed form; `python -m fmct_hpc.model.size` prints a table.

Operations are those of matrix products, counting multiplications and additions (2 · m · n · k), as in
torch.utils.flop_counter; norms, softmax and activations are excluded, as usual for MFU.
"""

from math import prod
from typing import TYPE_CHECKING

from fmct_hpc.data.config import DataConfig
from fmct_hpc.fields import Size
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import size_of
from fmct_hpc.model.patches import grid_of
from fmct_hpc.model.tissue import kept_patches
from fmct_hpc.model.vit_size import block_flops, block_parameters, patch_values

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig


def parameter_counts(config: "TrainConfig") -> dict[str, int]:
    """Trained parameters by module: the encoder, and the modules of the objective's parts.

    The teacher, not counted here, has another encoder and the parts' `taught` modules.
    """
    counts = {"encoder": size_of(config.model.kind).parameters(config)}
    for part in config.parts:
        counts |= part.parameters()
    return counts


def head_parameters(model: ModelConfig) -> int:
    """Parameters of a DINO head."""
    layers = ((model.width, model.head_hidden), (model.head_hidden, model.head_hidden))
    return (
        sum(
            (fan_in + 1) * fan_out
            for fan_in, fan_out in (*layers, (model.head_hidden, model.head_bottleneck))
        )
        + model.head_bottleneck * model.prototypes
    )


def decoder_parameters(config: "TrainConfig") -> int:
    """Parameters of an MAE decoder."""
    model, width = config.model, config.model.decoder_width
    return (
        (model.width + 1) * width
        + (1 + prefix_tokens(model)) * width
        + model.decoder_depth * block_parameters(model, width, layer_scale=False)
        + 2 * width
        + (width + 1) * patch_values(config)
    )


def patches_per_view(config: "TrainConfig") -> int:
    """Number of encoded patches of a global view."""
    return patches_of_views(config)[0]


def patches_of_views(config: "TrainConfig") -> list[int]:
    """Number of encoded patches of each view, the global views first."""
    grids = (grid_of(size, config.model.patch_size) for size in config.data.view_sizes)
    return [kept_patches(prod(grid), config.model.keep_tokens) for grid in grids]


def prefix_tokens(model: ModelConfig) -> int:
    """Number of tokens before the patches: CLS and registers of a ViT."""
    return size_of(model.kind).prefix_tokens(model)


def tokens_per_view(config: "TrainConfig") -> int:
    """Number of tokens of a global view: CLS, registers and patches."""
    return prefix_tokens(config.model) + patches_per_view(config)


def tokens_per_volume(config: "TrainConfig") -> int:
    """Number of tokens that the student's encoder processes per volume, over all views."""
    prefix, shared = prefix_tokens(config.model), 0
    if config.objective.compares_views:
        shared = sum(prefix + patches for patches in patches_of_views(config))
    return shared + sum(part.costs().tokens for part in config.parts)


def encoder_flops(config: "TrainConfig", patches: int | None = None, view_size: Size | None = None) -> int:
    """Operations of the encoder's forward pass over a global view, or over a view of another size.

    patches: number of encoded patches; None: as in a global view.
    """
    n = patches_per_view(config) if patches is None else patches
    return size_of(config.model.kind).flops(config, view_size or config.data.view_size, n)


def embedding_flops(config: "TrainConfig", patches: int) -> int:
    """Operations of the patch embedding."""
    return size_of(config.model.kind).embedding_flops(config, patches)


def head_flops(model: ModelConfig) -> int:
    """Operations of a DINO head's forward pass over one token."""
    hidden, bottleneck = model.head_hidden, model.head_bottleneck
    return 2 * (model.width * hidden + hidden * hidden + hidden * bottleneck + bottleneck * model.prototypes)


def decoder_flops(config: "TrainConfig", visible: int) -> int:
    """Operations of an MAE decoder's forward pass over a view with `visible` visible patches."""
    model = config.model
    embedding = 2 * (prefix_tokens(model) + visible) * model.width * model.decoder_width
    voxels = 2 * patches_per_view(config) * model.decoder_width * patch_values(config)
    blocks = model.decoder_depth * block_flops(model, model.decoder_width, tokens_per_view(config))
    return embedding + blocks + voxels


def training_flops(config: "TrainConfig") -> int:
    """Operations of a training step per volume: forward passes of teacher and student, and backward pass.

    The backward pass has two products for each forward product, except in the patch embedding, whose input
    needs no gradient. Recomputation by activation checkpointing is not counted, as usual for MFU.
    """
    data, objective = config.data, config.objective
    views = patches_of_views(config)
    student = teacher = unneeded = 0
    if objective.compares_views:
        student += sum(
            encoder_flops(config, patches, size) for patches, size in zip(views, data.view_sizes, strict=True)
        )
        unneeded += sum(embedding_flops(config, patches) for patches in views)
    if objective.distils:
        teacher += data.global_views * encoder_flops(config)
    for costs in (part.costs() for part in config.parts):
        student, teacher, unneeded = (
            student + costs.student,
            teacher + costs.teacher,
            unneeded + costs.unneeded,
        )
    return teacher + 3 * student - unneeded


def table() -> str:
    """S, B and L for two view sizes, as Markdown; training with the default objective and views."""
    from fmct_hpc.config import TrainConfig  # imports this module

    lines = [
        "| size | patch, view | tokens | encoder | + head, decoder | forward, a view | training, a volume |",
        "|---|---|---|---|---|---|---|",
    ]
    for patch, view in ((12, 96), (16, 128)):
        for size in ("S", "B", "L"):
            model = ModelConfig.model_validate({"size": size, "patch_size": patch})
            config = TrainConfig(data=DataConfig.model_validate({"path": "", "view_size": view}), model=model)
            counts = parameter_counts(config)
            lines.append(
                f"| {size} | {patch}³ on {view}³ | {tokens_per_view(config)} "
                f"| {counts['encoder'] / 1e6:.1f} M | {sum(counts.values()) / 1e6:.1f} M "
                f"| {encoder_flops(config) / 1e9:.0f} GFLOP | {training_flops(config) / 1e12:.2f} TFLOP |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
