"""Signs that a run does not learn, by what looks at its features found: what, since when, and the remedy.

A sign is judged by means over the last looks, as many as fit into the patience: a batch of some ten volumes
says little by itself. All that it needs stands in metrics.jsonl, so that a report, and a run that goes on,
come to the same.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fmct_hpc.train.config import HealthConfig

RECOGNISED = 0.5
"""Retrieval from which on a run recognises volumes, whatever the weights told that it began with."""


class Judged(NamedTuple):
    """Figures by name."""

    now: Mapping[str, float]
    """Means over the last looks."""
    start: Mapping[str, float]
    """Means over the first looks; empty where the record lacks them."""
    least: Mapping[str, float]
    """The least that `now` has been."""


class Sign(NamedTuple):
    """One way not to learn."""

    what: str
    needs: tuple[str, ...]
    """Figures that it is judged by; they are told beside it."""
    shows: Callable[[Judged, HealthConfig], bool]
    remedy: str
    of_views: bool = False
    """Only of an objective that compares views: MAE alone teaches the CLS token nothing of volumes."""


def _not_recognised(found: Judged, limits: HealthConfig) -> bool:
    """Whether retrieval is what it was at the start, when it is of chance and of likeness before learning."""
    start = found.start.get("retrieval", found.now["retrieval_chance"])
    return found.now["retrieval"] < min(RECOGNISED, start + limits.min_rise * (1 - start))


def _tells_crops(found: Judged, limits: HealthConfig) -> bool:
    return found.now.get("crop_likeness", 0.0) > limits.max_crop_likeness


SIGNS = (
    Sign(
        "two views of a volume are not recognised",
        ("retrieval", "retrieval_chance"),
        lambda found, limits: _not_recognised(found, limits) and not _tells_crops(found, limits),
        "set objective.centring=sinkhorn, a lower objective.teacher_temperature or objective.koleo_weight, "
        "more run.steps or a higher optim.base_lr",
        of_views=True,
    ),
    Sign(
        "features encode the crop and not the volume",
        ("retrieval", "crop_likeness"),
        lambda found, limits: _not_recognised(found, limits) and _tells_crops(found, limits),
        "set a narrower data.global_crop_mm, a lower objective.koleo_weight, or train on volumes that differ",
        of_views=True,
    ),
    Sign(
        "the CLS tokens lie along one direction",
        ("cls_rank",),
        lambda found, limits: found.now["cls_rank"] < limits.min_rank,
        "set objective.centring=sinkhorn, some objective.koleo_weight or a lower optim.base_lr",
        of_views=True,
    ),
    Sign(
        "the patch tokens lie along one direction",
        ("patch_rank",),
        lambda found, limits: found.now["patch_rank"] < limits.min_rank,
        "set a lower optim.base_lr, or some objective.mae_weight or objective.ibot_weight",
    ),
    Sign(
        "the patch tokens of a view grow alike",
        ("patch_similarity",),
        lambda found, limits: (
            found.now["patch_similarity"] - found.least["patch_similarity"] > limits.max_patch_drift
        ),
        "take a checkpoint from before (run.keep_every keeps them), or begin again with "
        "objective.gram_weight from then on (objective.gram_begin), or more objective.ibot_weight or "
        "objective.mae_weight",
    ),
    Sign(
        "tissue is in patches that are not encoded",
        ("tissue_dropped",),
        lambda found, limits: found.now["tissue_dropped"] > limits.max_tissue_dropped,
        "set a greater model.keep_tokens, or a wider data.global_crop_mm, whose views have more air",
    ),
    Sign(
        "the online probe finds no more than at the start",
        ("probe_linear", "probe_knn"),
        lambda found, _: all(
            found.now[name] <= found.start.get(name, 0.0) for name in ("probe_linear", "probe_knn")
        ),
        "look at data.windows, data.field_mm and data.view_size, in which the labels must be visible, and at "
        "objective.mae_weight",
    ),
)
"""All that are looked for. Thresholds are keys of `health`."""
FIGURES = frozenset({"crop_likeness", *(name for sign in SIGNS for name in sign.needs)})
"""All that is judged."""
