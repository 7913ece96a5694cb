"""Parameters and operations in closed form against built models, torch's counter, and counts by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.fields import Size, edges
from fmct_hpc.model.size import encoder_flops, parameter_counts, table, tokens_per_view, training_flops
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.schedules import settings as scheduled


def config(**sections: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": {"path": "unused"}, **sections})


def test_the_references_published_weights_have_the_size_in_its_notebook() -> None:
    bare = {"qkv_bias": False, "register_tokens": 0, "positions": "learned"}
    assert parameter_counts(config(model=bare))["encoder"] == 89_404_416


def test_vit_b_parameters_counted_by_hand() -> None:
    embedding = 3 * 12**3 * 768 + 768
    attention = 768 * 3 * 768 + 3 * 768 + 768 * 768 + 768
    mlp = 768 * 3072 + 3072 + 3072 * 768 + 768
    norms = 2 * (768 + 768)
    encoder = embedding + 5 * 768 + 12 * (attention + mlp + norms) + 2 * 768
    head = 768 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256 + 256 * 65536
    counts = parameter_counts(config())
    assert (counts["encoder"], counts["head"]) == (encoder, head)
    assert encoder == 89_041_920
    # 517 tokens: 12 matrices of 768² and attention's two products a block, after 512 patches of 5184.
    flops = 2 * 512 * 5184 * 768 + 12 * (2 * 517 * 12 * 768**2 + 4 * 517**2 * 768)
    assert encoder_flops(config()) == flops


OPTIONS = [
    ({}, {}),
    ({"positions": "learned", "layer_scale": 1e-5, "qkv_bias": False}, {"ibot_weight": 1}),
    ({"positions": "learned", "keep_tokens": 0.5}, {"ibot_weight": 1, "gram_weight": 1, "gram_begin": 0}),
    ({"positions": "rope", "rope_jitter": {"rescale": 2}}, {"ibot_weight": 1}),
    ({"register_tokens": 0}, {"ibot_weight": 1, "ibot_shared_head": True}),
    ({}, {"dino_weight": 0}),
    ({}, {"mae_weight": 0, "koleo_weight": 0.1}),
    ({}, {"gram_weight": 1, "gram_begin": 0}),
    ({}, {"dino_weight": 0, "lejepa_weight": 1, "lejepa_slices": 100, "lejepa_hidden": 40}),
]


@pytest.mark.parametrize(("model", "objective"), OPTIONS)
@pytest.mark.parametrize("size", ["S", "B", "L"])
def test_counts_equal_the_built_model(
    size: str, model: dict[str, object], objective: dict[str, object]
) -> None:
    for sizes in ((96, 12), ((56, 224, 224), (4, 16, 16))):
        data, shape = {"path": "unused", "view_size": sizes[0]}, {"size": size, "patch_size": sizes[1]}
        require_counts(config(data=data, model={**shape, **model}, objective=objective))


def require_counts(settings: TrainConfig) -> None:
    with torch.device("meta"):
        student = Student(settings)
    built: Counter[str] = Counter()
    for name, parameter in student.named_parameters():
        built[name.split(".")[0]] += parameter.numel()
    assert parameter_counts(settings) == built


@pytest.mark.parametrize(
    ("view", "local", "patch"), [(16, 8, 4), (16, 16, 4), ((4, 16, 24), (4, 8, 16), (2, 4, 8))]
)
@pytest.mark.parametrize(("model", "objective"), OPTIONS)
def test_operations_equal_the_count_of_torch(
    model: dict[str, object], objective: dict[str, object], view: Size, local: Size, patch: Size
) -> None:
    sizes = {"width": 48, "depth": 2, "heads": 2, "head_hidden": 64, "head_bottleneck": 32, "prototypes": 40}
    decoder = {"decoder_width": 24, "decoder_depth": 2, "decoder_heads": 2, "patch_size": patch}
    # One ratio and every view masked, so that draws equal their expectation.
    drawn = {"ibot_mask_ratio": (0.25, 0.25), "ibot_mask_probability": 1}
    settings = config(
        data={"path": "unused", "view_size": view, "local_view_size": local},
        model={**sizes, **decoder, **model},
        objective={**drawn, **objective},
    )
    student, teacher = Student(settings), Teacher(settings)
    views = Views(torch.rand(2, 2, 3, *edges(view)), torch.rand(2, 2, 3, *edges(local)))
    draws = draw(settings, 0, np.array([3, 8]))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        student.encoder(views.whole[0])
    assert forward.get_total_flops() == 2 * encoder_flops(settings)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:
        now = scheduled(settings, 0)
        targets = teacher(views.whole, draws, now) if settings.objective.distils else {}
        if settings.objective.gram_weight:
            with torch.no_grad():  # the anchor's pass
                tokens = student.encoder(views.whole.flatten(0, 1)).unflatten(0, views.whole.shape[:2])
            targets["gram"] = tokens[:, :, student.encoder.prefix :]
        student(views, targets, draws, now).total.backward()
    # The losses have a few products too: DINO's pairs, KoLeo's distances.
    assert whole.get_total_flops() == pytest.approx(2 * training_flops(settings), rel=2e-4)


def test_local_views_of_half_the_edge_save_a_third_of_the_references_operations() -> None:
    """By hand: of a view's 98 GFLOP, 68 tokens after 64 patches need 11.3; three passes of two such views."""

    def encoder(patches: int) -> int:
        tokens = patches + 5
        products = 12 * (2 * tokens * 12 * 768**2 + 4 * tokens**2 * 768)
        return 3 * products + 2 * 2 * patches * 5184 * 768  # no gradient to the embedding's input

    large = training_flops(config())
    small = training_flops(config(data={"path": "unused", "local_view_size": 48}))
    assert large - small == 2 * (encoder(512) - encoder(64))
    assert 1 - small / large == pytest.approx(1 / 3, abs=0.01)


def test_the_documented_table_is_the_counted_one() -> None:
    text = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    assert table() in text
    data, model = {"path": "unused", "view_size": (56, 224, 224)}, {"patch_size": (4, 16, 16)}
    thin = config(data=data, model=model)
    for shown in (
        f"{tokens_per_view(thin) - 5:,} patches",
        f"{encoder_flops(thin) / 1e9:.0f} GFLOP",
        f"{training_flops(thin) / 1e12:.1f} TFLOP",
    ):
        assert shown in text


def test_a_part_that_starts_late_counts_only_for_its_steps() -> None:
    none, whole, late = (
        training_flops(config(objective=keys))
        for keys in ({}, {"gram_weight": 1, "gram_begin": 0}, {"gram_weight": 1, "gram_begin": 0.75})
    )
    assert late == pytest.approx(0.75 * none + 0.25 * whole, rel=1e-9)
    assert whole > 1.1 * none
