"""Self-distillation of masked patches: iBOT (Zhou et al. 2022, section 3.1)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from fmct_hpc.fields import AtLeast0, Edges, Fraction
from fmct_hpc.model.patches import grid_of
from fmct_hpc.model.size import head_flops, head_parameters, patches_a_view
from fmct_hpc.objective.distillation import Distillation, DistillationKeys, head_of, kept_scores
from fmct_hpc.objective.draws import generator
from fmct_hpc.objective.part import Costs, Judged, Seen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fmct_hpc.objective.student import Student

_STREAM = int.from_bytes(b"ibot")


class IbotKeys(DistillationKeys):
    """iBOT's keys."""

    ibot_weight: AtLeast0 = 0.0
    """Masked patches against the teacher's tokens of them (Zhou et al. 2022: 1); the reference has none."""
    ibot_mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How likely a global view is masked for iBOT at all (Zhou et al. 2022, section 4.1)."""
    ibot_mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Least and greatest share of its patches that is masked then (Zhou et al. 2022: 0.3 ± 0.2)."""
    ibot_shared_head: bool = False
    """One head for CLS and patches (iBOT), or one each (DINOv2: better at scale)."""

    @model_validator(mode="after")
    def _ibot_masks_some_and_not_all(self) -> IbotKeys:
        if not 0 < self.ibot_mask_ratio[0] <= self.ibot_mask_ratio[1] < 1:
            raise ValueError("objective.ibot_mask_ratio must rise from above 0 to below 1")
        return self


class Masked(NamedTuple):
    """How iBOT hides patches of the global views from the student; M of them in all."""

    turns: Tensor
    """int64 (G, B, N): the turn at which each patch of a view is covered by blocks, from 0; N: at none."""
    counts: Tensor
    """int64 (G, B): how many are hidden of those patches that are encoded, the ones of the first turns."""
    weights: Tensor
    """float32 (M,): a patch's share of the loss, 1 / (G · B · hidden patches of its view)."""

    def where(self, kept: Tensor | None) -> Tensor:
        """Which are hidden of the patches that are encoded, `Seen.kept`: bool (G, B, n)."""
        turns = self.turns if kept is None else self.turns.gather(2, kept)
        return turns.argsort(dim=2).argsort(dim=2) < self.counts.unsqueeze(-1)


class Ibot(Distillation):
    """The teacher's prototypes of patches that a mask token hides from the student.

    As in iBOT and DINOv2 the student's global views are the masked ones for the other parts too.
    """

    name = "ibot"
    title = "iBOT"
    taught = ("ibot_head",)
    target_name = "patches"
    needs = ("hides",)

    @property
    def _head(self) -> str:
        return "head" if self.config.objective.ibot_shared_head else "ibot_head"

    def require(self) -> None:
        """A head to share, where one is to be shared."""
        objective = self.config.objective
        if objective.ibot_shared_head and not objective.dino_weight:
            raise ValueError(
                "objective.ibot_shared_head shares DINO's: objective.dino_weight must be above 0"
            )

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """A head, if it is not DINO's, and the mask token."""
        import torch
        from torch import nn

        own = {} if self._head == "head" else {self._head: self.new_head()}
        return {**own, "mask_token": nn.Parameter(torch.zeros(self.config.model.width))}

    def draw(self, step: int, samples: NDArray[np.int64]) -> Masked:
        """The patches that are hidden."""
        data, objective = self.config.data, self.config.objective
        grid = grid_of(data.view_size, self.config.model.patch_size)
        how = objective.ibot_mask_probability, objective.ibot_mask_ratio
        kept = patches_a_view(self.config)
        return masked_patches(self.config.run.seed, step, samples, data.global_views, grid, kept, *how)

    def hidden(self, network: Student, drawn: Any, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """The drawn patches, and the mask token."""
        return drawn.where(kept), network.get_parameter("mask_token")

    def teach(self, seen: Seen) -> Tensor:
        """Logits of the patches that are hidden from the student, (M, K)."""
        logits: Tensor = head_of(seen, self._head)(masked_tokens(seen))
        return logits

    def loss(self, seen: Seen) -> Judged:
        """`ibot_loss`."""
        assert seen.target is not None, "iBOT needs the teacher's targets"
        logits = head_of(seen, self._head)(masked_tokens(seen), seen.now.freeze_prototypes)
        temperature = self.config.objective.student_temperature
        return Judged(ibot_loss(logits, seen.target, seen.drawn.weights, temperature))

    def parameters(self) -> dict[str, int]:
        """Of the head, if it is its own, and the mask token."""
        model = self.config.model
        own = {} if self._head == "head" else {self._head: head_parameters(model)}
        return {**own, "mask_token": model.width}

    def costs(self) -> Costs:
        """The head, on as many patches as are masked on average."""
        data, objective = self.config.data, self.config.objective
        share = objective.ibot_mask_probability * sum(objective.ibot_mask_ratio) / 2
        masked = data.global_views * patches_a_view(self.config) * share
        each = round(masked) * head_flops(self.config.model)
        targets, outputs = kept_scores(self.config, masked, masked)
        return Costs(each, each, targets=targets, outputs=outputs)


def ibot_loss(
    student_logits: Tensor, teacher_probabilities: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of each masked patch, which the teacher saw and the student did not, weighted.

    student_logits, teacher_probabilities: (M, K); weights: (M,), `Masked.weights`: the mean over a view's
    masked patches, then over all views, those without any counting as 0. Returns a float32 scalar.
    """
    import torch.nn.functional as F

    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    return -((teacher_probabilities * log_student).sum(dim=-1) * weights).sum()


def masked_tokens(seen: Seen) -> Tensor:
    """Tokens of the masked patches of the global views, (M, width)."""
    shown = ~seen.drawn.where(seen.kept).flatten()
    # Not by `nonzero`, which would have the host wait for the device; M is known.
    numbers = shown.int().argsort(stable=True)[: len(seen.drawn.weights)]
    return seen.whole_patches.flatten(0, 2)[numbers]


def masked_patches(
    seed: int,
    step: int,
    samples: NDArray[np.int64],
    views: int,
    grid: Edges,
    kept: int,
    probability: float,
    ratio: tuple[float, float],
) -> Masked:
    """Patches of the `views` global views to hide for iBOT, in blocks (Zhou et al. 2022, section 4.1).

    With `probability` a view is masked at all, then a share of its `kept` patches drawn from `ratio`, at
    least one. Blocks cover as many more of all N patches as are not encoded: whichever those are, enough are
    left.
    """
    import torch

    patches = prod(grid)
    turns = np.full((views, len(samples), patches), patches)
    counts = np.zeros(turns.shape[:2], dtype=np.int64)
    for view, number in np.ndindex(counts.shape):
        drawn = generator(seed, _STREAM, step, int(samples[number]), view)
        is_masked, share = drawn.random() < probability, drawn.uniform(*ratio)
        if is_masked:
            counts[view, number] = count = max(1, round(share * kept))
            covered = block_order(drawn, grid, patches - kept + count)
            turns[view, number, covered] = np.arange(len(covered))
    weights = 1 / np.repeat(counts, counts.ravel()) / counts.size
    return Masked(
        torch.from_numpy(turns), torch.from_numpy(counts), torch.from_numpy(weights.astype(np.float32))
    )


def block_order(drawn: np.random.Generator, grid: Edges, count: int) -> NDArray[np.int64]:
    """`count` of a grid's patches, (count,), as cuboids cover them whose edges are 2 to half the grid's.

    Cuboids may overlap; the last one is cut off where `count` is reached.
    """
    left = np.arange(prod(grid)).reshape(grid)
    least = np.minimum(2, grid)
    most = np.maximum(least, np.array(grid) // 2)
    covered: list[int] = []
    while len(covered) < count:
        edges = drawn.integers(least, most, endpoint=True)
        starts = drawn.integers(0, grid - edges, endpoint=True)
        block = left[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))]
        covered += block[block >= 0].tolist()
        block[:] = -1
    return np.array(covered[:count])
