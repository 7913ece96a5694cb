"""How large a model is and how much it computes, in closed form: `python -m fmct_hpc.model.size` for a table.

Operations are those of matrix products, a multiplication and an addition each (2 · m · n · k), as in
torch.utils.flop_counter; norms, softmax and activations are left out, as in every published figure of MFU.
"""

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.config import DataConfig
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.patches import visible_patches


def parameter_counts(config: TrainConfig) -> dict[str, int]:
    """Trained parameters by part, those that are built: encoder, head, ibot_head, mask_token, decoder.

    The teacher holds another encoder and heads.
    """
    model, objective = config.model, config.objective
    patch, patches = _patch(config), _patches(config)
    positions = patches * model.width if model.positions == "learned" else 0
    counts = {
        "encoder": (patch + 1) * model.width
        + _prefix(model) * model.width
        + positions
        + model.depth * _block_parameters(model, model.width, model.layer_scale is not None)
        + 2 * model.width
    }
    layers = ((model.width, model.head_hidden), (model.head_hidden, model.head_hidden))
    head = sum(
        (fan_in + 1) * fan_out for fan_in, fan_out in (*layers, (model.head_hidden, model.head_bottleneck))
    )
    head += model.head_bottleneck * model.prototypes
    if objective.dino_weight:
        counts["head"] = head
    if objective.ibot_weight:
        if not objective.ibot_shared_head:
            counts["ibot_head"] = head
        counts["mask_token"] = model.width
    if objective.mae_weight:
        width = model.decoder_width
        counts["decoder"] = (
            (model.width + 1) * width
            + (1 + _prefix(model)) * width
            + model.decoder_depth * _block_parameters(model, width, layer_scale=False)
            + 2 * width
            + (width + 1) * patch
        )
    return counts


def tokens_a_view(config: TrainConfig) -> int:
    """CLS, registers and all patches of a view."""
    return _prefix(config.model) + _patches(config)


def tokens_a_volume(config: TrainConfig) -> int:
    """Tokens that the student's encoder works on for one volume, over all its views."""
    objective, tokens = config.objective, 0
    if objective.compares_views:
        tokens += sum(_prefix(config.model) + patches for patches in _patches_of_views(config))
    if objective.mae_weight:
        tokens += _prefix(config.model) + visible_patches(_patches(config), objective.mask_ratio)
    return tokens


def masked_patches_a_volume(config: TrainConfig) -> float:
    """Patches that iBOT hides of one volume's global views, on average; 0 without iBOT."""
    objective = config.objective
    if not objective.ibot_weight:
        return 0.0
    share = objective.ibot_mask_probability * sum(objective.ibot_mask_ratio) / 2
    return config.data.global_views * _patches(config) * share


def encoder_flops(config: TrainConfig, patches: int | None = None) -> int:
    """Operations of the encoder's forward pass over one view, or over only `patches` of its patches."""
    n = _patches(config) if patches is None else patches
    return _embedding_flops(config, n) + config.model.depth * _block_flops(
        config.model, config.model.width, _prefix(config.model) + n
    )


def training_flops(config: TrainConfig) -> int:
    """Operations of a training step for one volume: the teacher's forward pass, the student's, and backward.

    A backward pass is two products for each of the forward's, but for the patch embedding, whose input
    needs no gradient. What activation checkpointing computes again is not counted: MFU is of the model.
    """
    model, objective = config.model, config.objective
    n, prefix = _patches(config), _prefix(model)
    views, whole = _patches_of_views(config), config.data.global_views
    student = teacher = unneeded = 0
    if objective.compares_views:
        student += sum(encoder_flops(config, patches) for patches in views)
        unneeded += sum(_embedding_flops(config, patches) for patches in views)
    if objective.distils:
        teacher += whole * encoder_flops(config)
    if objective.dino_weight:
        student += len(views) * _head_flops(model)
        teacher += whole * _head_flops(model)
    if objective.ibot_weight:
        masked = round(masked_patches_a_volume(config))
        student += masked * _head_flops(model)
        teacher += masked * _head_flops(model)
    if objective.mae_weight:
        visible = visible_patches(n, objective.mask_ratio)
        student += encoder_flops(config, visible) + _decoder_flops(config, visible, prefix + n)
        unneeded += _embedding_flops(config, visible)
    return teacher + 3 * student - unneeded


def table() -> str:
    """S, B and L on two sizes of view, as Markdown; training is with the default objective and views."""
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
                f"| {size} | {patch}³ on {view}³ | {_prefix(model) + _patches(config)} "
                f"| {counts['encoder'] / 1e6:.1f} M | {sum(counts.values()) / 1e6:.1f} M "
                f"| {encoder_flops(config) / 1e9:.0f} GFLOP | {training_flops(config) / 1e12:.2f} TFLOP |"
            )
    return "\n".join(lines)


def _prefix(model: ModelConfig) -> int:
    return 1 + model.register_tokens


def _patches(config: TrainConfig) -> int:
    return (config.data.view_size // config.model.patch_size) ** 3


def _patches_of_views(config: TrainConfig) -> list[int]:
    """Patches of each view, the global ones first."""
    return [(size // config.model.patch_size) ** 3 for size in config.data.view_sizes]


def _patch(config: TrainConfig) -> int:
    """Values in a patch."""
    return len(config.data.windows) * config.model.patch_size**3


def _block_parameters(model: ModelConfig, width: int, layer_scale: bool) -> int:
    hidden = round(width * model.mlp_ratio)
    attention = 3 * width * width + 3 * width * model.qkv_bias + (width + 1) * width
    mlp = (width + 1) * hidden + (hidden + 1) * width
    return attention + mlp + 2 * 2 * width + 2 * width * layer_scale


def _embedding_flops(config: TrainConfig, patches: int) -> int:
    return 2 * patches * _patch(config) * config.model.width


def _block_flops(model: ModelConfig, width: int, tokens: int) -> int:
    """Linear layers, then attention's two products of all tokens with all tokens."""
    hidden = round(width * model.mlp_ratio)
    return 2 * tokens * (4 * width * width + 2 * width * hidden) + 2 * 2 * tokens * tokens * width


def _head_flops(model: ModelConfig) -> int:
    """Of one token."""
    hidden, bottleneck = model.head_hidden, model.head_bottleneck
    return 2 * (model.width * hidden + hidden * hidden + hidden * bottleneck + bottleneck * model.prototypes)


def _decoder_flops(config: TrainConfig, visible: int, tokens: int) -> int:
    model = config.model
    embedding = 2 * (_prefix(model) + visible) * model.width * model.decoder_width
    voxels = 2 * _patches(config) * model.decoder_width * _patch(config)
    return embedding + model.decoder_depth * _block_flops(model, model.decoder_width, tokens) + voxels


if __name__ == "__main__":
    print(table())
