"""Self-distillation of masked patches: iBOT (Zhou et al. 2022, section 3.1)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from fmct_hpc.fields import AtLeast0, Edges, Fraction
from fmct_hpc.model.patches import grid_of
from fmct_hpc.model.size import head_flops, head_parameters, patches_per_view
from fmct_hpc.objective.distillation import Distillation, DistillationKeys, head_of, kept_scores
from fmct_hpc.objective.draws import generator
from fmct_hpc.objective.part import Costs, ForwardPass, PartLoss

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fmct_hpc.objective.student import Student

_STREAM = int.from_bytes(b"ibot")


class IbotKeys(DistillationKeys):
    """iBOT's keys."""

    ibot_weight: AtLeast0 = 0.0
    """Weight of iBOT (Zhou et al. 2022: 1); the reference does not have it."""
    ibot_mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability that a global view is masked for iBOT (Zhou et al. 2022, section 4.1)."""
    ibot_mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Minimum and maximum share of masked patches in a masked view (Zhou et al. 2022: 0.3 ± 0.2)."""
    ibot_shared_head: bool = False
    """Whether CLS and patches share one head (iBOT) or have one each (DINOv2: better at scale)."""

    @model_validator(mode="after")
    def _ibot_masks_some_and_not_all(self) -> IbotKeys:
        if not 0 < self.ibot_mask_ratio[0] <= self.ibot_mask_ratio[1] < 1:
            raise ValueError("objective.ibot_mask_ratio must rise from above 0 to below 1")
        return self


class Masked(NamedTuple):
    """iBOT's masks of the global views, with M masked patches in total."""

    turns: Tensor
    """int64 (G, B, N): rank of each patch in the order in which blocks cover a view, from 0; N: not
    covered."""
    counts: Tensor
    """int64 (G, B): number of masked patches, which are the first covered ones among the encoded patches."""
    weights: Tensor
    """float32 (M,): a patch's share of the loss, 1 / (G · B · masked patches of its view)."""

    def where(self, kept: Tensor | None) -> Tensor:
        """Whether each encoded patch (`ForwardPass.kept`) is masked: bool (G, B, n)."""
        turns = self.turns if kept is None else self.turns.gather(2, kept)
        return turns.argsort(dim=2).argsort(dim=2) < self.counts.unsqueeze(-1)


class Ibot(Distillation):
    """Predicts the teacher's prototypes of patches that a mask token replaces in the student.

    As in iBOT and DINOv2, the other parts also get the student's masked global views.
    """

    name = "ibot"
    title = "iBOT"
    taught = ("ibot_head",)
    target_name = "patches"
    needs = ("hides",)

    @property
    def _head(self) -> str:
        return "head" if self.config.objective.ibot_shared_head else "ibot_head"

    @property
    def target_head(self) -> str:
        """Its own head, or DINO's."""
        return self._head

    def require(self) -> None:
        """Raise ValueError for a shared head without DINO."""
        objective = self.config.objective
        if objective.ibot_shared_head and not objective.dino_weight:
            raise ValueError(
                "objective.ibot_shared_head uses DINO's head: objective.dino_weight must be above 0"
            )

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """The mask token, and a head unless it is DINO's."""
        import torch
        from torch import nn

        own = {} if self._head == "head" else {self._head: self.new_head()}
        return {**own, "mask_token": nn.Parameter(torch.zeros(self.config.model.width))}

    def draw(self, step: int, samples: NDArray[np.int64]) -> Masked:
        """The masked patches."""
        data, objective = self.config.data, self.config.objective
        grid = grid_of(data.view_size, self.config.model.patch_size)
        how = objective.ibot_mask_probability, objective.ibot_mask_ratio
        kept = patches_per_view(self.config)
        return masked_patches(self.config.run.seed, step, samples, data.global_views, grid, kept, *how)

    def hidden(self, network: Student, drawn: Any, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """The masked patches and the mask token."""
        return drawn.where(kept), network.get_parameter("mask_token")

    def teach(self, forward: ForwardPass) -> Tensor:
        """Logits of the patches that are masked in the student, (M, K)."""
        logits: Tensor = head_of(forward, self._head)(masked_tokens(forward))
        return logits

    def loss(self, forward: ForwardPass) -> PartLoss:
        """`ibot_loss`."""
        assert forward.target is not None, "iBOT needs the teacher's targets"
        logits = head_of(forward, self._head)(masked_tokens(forward), forward.now.freeze_prototypes)
        temperature = self.config.objective.student_temperature
        return PartLoss(ibot_loss(logits, forward.target, forward.drawn.weights, temperature))

    def parameters(self) -> dict[str, int]:
        """Parameters of the mask token, and of the head unless it is DINO's."""
        model = self.config.model
        own = {} if self._head == "head" else {self._head: head_parameters(model)}
        return {**own, "mask_token": model.width}

    def costs(self) -> Costs:
        """Costs of the head on the mean number of masked patches."""
        data, objective = self.config.data, self.config.objective
        share = objective.ibot_mask_probability * sum(objective.ibot_mask_ratio) / 2
        masked = data.global_views * patches_per_view(self.config) * share
        each = round(masked) * head_flops(self.config.model)
        targets, outputs = kept_scores(self.config, masked, masked)
        return Costs(each, each, targets=targets, outputs=outputs)


def ibot_loss(
    student_logits: Tensor, teacher_probabilities: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """Weighted cross-entropy of the masked patches, which only the teacher sees.

    student_logits, teacher_probabilities: (M, K); weights: (M,), `Masked.weights`: the mean over a view's
    masked patches, then over all views, where views without masked patches count as 0. Returns a float32
    scalar.
    """
    import torch.nn.functional as F

    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    return -((teacher_probabilities * log_student).sum(dim=-1) * weights).sum()


def masked_tokens(forward: ForwardPass) -> Tensor:
    """Tokens of the masked patches of the global views, (M, width)."""
    shown = ~forward.drawn.where(forward.kept).flatten()
    # Not by `nonzero`, which would synchronise host and device; M is known.
    numbers = shown.int().argsort(stable=True)[: len(forward.drawn.weights)]
    return forward.whole_patches.flatten(0, 2)[numbers]


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
    """Draw iBOT's masks of the `views` global views, in blocks (Zhou et al. 2022, section 4.1).

    A view is masked with `probability`; then a share of its `kept` patches, uniform in `ratio`, at least one
    patch. Blocks additionally cover as many of all N patches as are not encoded, so that enough encoded ones
    are covered in any case.
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
    """The first `count` patches of a grid, (count,), in the order in which random cuboids cover them.

    Edges are from 2 to half the grid's; cuboids may overlap; the last one is truncated at `count`.
    """
    left = np.arange(prod(grid)).reshape(grid)
    low = np.minimum(2, grid)
    high = np.maximum(low, np.array(grid) // 2)
    covered: list[int] = []
    while len(covered) < count:
        edges = drawn.integers(low, high, endpoint=True)
        starts = drawn.integers(0, grid - edges, endpoint=True)
        block = left[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))]
        covered += block[block >= 0].tolist()
        block[:] = -1
    return np.array(covered[:count])
