"""Signs that a run does not learn, by its evaluations of features: the symptom, the criterion, the remedy.

A sign is judged by means over the last evaluations, as many as fit into health.patience: one batch of about
ten volumes is too noisy. All figures come from metrics.jsonl, so a report and a resumed run reach the same
result.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.spread import listed, more, more_spread, sharper_targets
from fmct_hpc.train.config import HealthConfig

RECOGNISED = 0.5
"""Retrieval above which a run counts as recognising volumes, whatever its initial weights achieved."""


class SignFigures(NamedTuple):
    """Figures by name."""

    now: Mapping[str, float]
    """Means over the last evaluations."""
    start: Mapping[str, float]
    """Means over the first evaluations; empty where the record lacks them."""
    minimum: Mapping[str, float]
    """Minimum of `now` so far."""


class Sign(NamedTuple):
    """One symptom of a run that does not learn."""

    what: str
    needs: tuple[str, ...]
    """Figures that it is judged by and logged with."""
    shows: Callable[[SignFigures, HealthConfig], bool]
    remedy: Callable[[TrainConfig], str]
    """What to change in a configuration; names no value that is already set."""
    of_views: bool = False
    """Only for objectives that compare views: MAE alone does not train the CLS token to identify volumes."""


def _not_recognised(figures: SignFigures, limits: HealthConfig) -> bool:
    """Whether retrieval is near its initial value, which chance and untrained similarity explain."""
    start = figures.start.get("retrieval", figures.now["retrieval_chance"])
    return figures.now["retrieval"] < min(RECOGNISED, start + limits.min_rise * (1 - start))


def _encodes_crops(figures: SignFigures, limits: HealthConfig) -> bool:
    return figures.now.get("crop_likeness", 0.0) > limits.max_crop_likeness


def _less_spread(config: TrainConfig) -> list[str]:
    return ["a lower objective.koleo_weight"] if "koleo" in config.objective.weights else []


def _recognise(config: TrainConfig) -> str:
    changes = [*sharper_targets(config), *_less_spread(config), "more run.steps", "a higher optim.base_lr"]
    return f"set {listed(changes)}"


def _ignore_crops(config: TrainConfig) -> str:
    changes = ["a narrower data.global_crop_mm", *_less_spread(config)]
    return f"set {listed(changes)}, or use more varied volumes"


def _spread(config: TrainConfig) -> str:
    sinkhorn = [change for change in sharper_targets(config) if "centring" in change]
    return f"set {listed([*sinkhorn, *more_spread(config), 'a lower optim.base_lr'])}"


def _spread_patches(config: TrainConfig) -> str:
    return f"set {listed(['a lower optim.base_lr', more(config, 'mae'), more(config, 'ibot')])}"


def _separate_patches(config: TrainConfig) -> str:
    gram = [f"{more(config, 'gram')} (objective.gram_begin sets its first step)"]
    changes = [*(gram if config.objective.distils else []), more(config, "ibot"), more(config, "mae")]
    return f"use an earlier checkpoint (run.keep_every keeps them), or restart with {listed(changes)}"


def _encode_tissue(config: TrainConfig) -> str:
    return "set a greater model.keep_tokens, or a wider data.global_crop_mm, whose views have more air"


def _show_labels(config: TrainConfig) -> str:
    return (
        "check data.windows, data.field_mm and data.view_size, in which the labels must be visible, or set "
        f"{more(config, 'mae')}"
    )


SIGNS = (
    Sign(
        "two views of a volume are not recognised",
        ("retrieval", "retrieval_chance"),
        lambda figures, limits: _not_recognised(figures, limits) and not _encodes_crops(figures, limits),
        _recognise,
        of_views=True,
    ),
    Sign(
        "features encode the crop and not the volume",
        ("retrieval", "crop_likeness"),
        lambda figures, limits: _not_recognised(figures, limits) and _encodes_crops(figures, limits),
        _ignore_crops,
        of_views=True,
    ),
    Sign(
        "the CLS tokens lie along one direction",
        ("cls_rank",),
        lambda figures, limits: figures.now["cls_rank"] < limits.min_rank,
        _spread,
        of_views=True,
    ),
    Sign(
        "the patch tokens lie along one direction",
        ("patch_rank",),
        lambda figures, limits: figures.now["patch_rank"] < limits.min_rank,
        _spread_patches,
    ),
    Sign(
        "the patch tokens of a view become similar",
        ("patch_similarity",),
        lambda figures, limits: (
            figures.now["patch_similarity"] - figures.minimum["patch_similarity"] > limits.max_patch_drift
        ),
        _separate_patches,
    ),
    Sign(
        "tissue is in patches that are not encoded",
        ("tissue_dropped",),
        lambda figures, limits: figures.now["tissue_dropped"] > limits.max_tissue_dropped,
        _encode_tissue,
    ),
    Sign(
        "the online probe does not improve",
        ("probe_linear", "probe_knn"),
        lambda figures, _: all(
            figures.now[name] <= figures.start.get(name, 0.0) for name in ("probe_linear", "probe_knn")
        ),
        _show_labels,
    ),
)
"""All signs. Their thresholds are keys of `health`."""

FIGURES = frozenset({"crop_likeness", *(name for sign in SIGNS for name in sign.needs)})
"""All figures that signs are judged by."""
