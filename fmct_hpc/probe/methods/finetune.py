"""Fine-tuning of the whole encoder with a linear layer on its pooled tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Below1, Fraction, Positive, Seed
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.model.tunable import Tunable
    from fmct_hpc.probe.config import ComparisonConfig, Pool
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput

FinetunePool = Literal["cls", "mean", "max"]


class FinetuneConfig(Section):
    """Supervised training of a whole encoder with a linear layer on its pooled tokens."""

    steps: Positive = 1000
    """Independent of the number of labels; the kept step is chosen on validation among the checked ones."""
    batch: Positive = 32
    check_every: Positive = 100
    """Steps between evaluations on the validation volumes."""
    lr: Above0 = 5e-4
    """Peak learning rate of the linear layer; that of the encoder's layers is reduced by `layer_decay`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Factor of the learning rate per block below the head (Bao et al. 2022, BEiT: 0.65 to 0.85); 1 for
    training from scratch."""
    warmup: Fraction = 0.1
    weight_decay: AtLeast0 = 0.05
    """He et al. 2022, table 9: 0.05."""
    clip: Above0 = 3.0
    drop_path: Below1 = 0.1
    """He et al. 2022, table 9: 0.1."""
    pool: tuple[FinetunePool, ...] = ("cls", "mean")
    """Poolings concatenated as input of the linear layer: the CLS token, the mean of the patch tokens, their
    maximum per channel (a small lesion covers few tokens, and a mean dilutes it)."""
    max_positive_weight: Annotated[float, Field(ge=1)] = 20.0
    """Positives of a task are weighted by negatives / positives of the training volumes, at most this."""
    flip_probability: Fraction = 0.5
    """For left-right flips; labels must not depend on the side."""
    move: Annotated[int, Field(ge=0)] = 2
    """Maximum translation of a view along each axis, in voxels."""
    shift: AtLeast0 = 0.05
    """Maximum intensity shift, relative to the windowed range."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Seed = 0

    @model_validator(mode="after")
    def _pools_something(self) -> "FinetuneConfig":
        if not self.pool or len(set(self.pool)) < len(self.pool):
            raise ValueError("pool: expected one or more of cls, mean and max, each once")
        return self


class FinetuneKeys(Section):
    """Section `finetune` of a configuration."""

    finetune: FinetuneConfig = FinetuneConfig()


class Finetune(Method):
    """`fmct_hpc.probe.finetune`; `seconds` is the time for 9.8 PFLOP on a GPU."""

    name = "finetune"
    reads = "volumes"
    draws = True
    seconds = 300.0

    def length(self, config: "ComparisonConfig", volumes: float) -> float:
        """Relative to 1,000 steps."""
        return config.finetune.steps / 1000

    def study_head(self) -> "type[Head]":
        """The linear head with attention over the series."""
        from fmct_hpc.probe.series_attention import StudyLinearHead

        return StudyLinearHead

    def pools(self, config: "ComparisonConfig", pool: "Pool | None") -> tuple[FinetunePool, ...]:
        """`finetune.pool` of the configuration."""
        return config.finetune.pool

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fine-tune for the problems one by one."""
        return [_finetuned(inputs, problem)[0] for problem in problems]

    def fit_to_keep(
        self, inputs: "FitInput", problems: "Sequence[Problem]"
    ) -> "tuple[list[Fitted], Tunable | None]":
        """`fit` for one problem, with the fine-tuned encoder."""
        (problem,) = problems
        fitted, encoder = _finetuned(inputs, problem)
        return [fitted], encoder


def _finetuned(inputs: "FitInput", problem: "Problem") -> "tuple[Fitted, Tunable]":
    """Fine-tune for one problem."""
    from fmct_hpc.probe.finetune import Rows, finetune
    from fmct_hpc.probe.goal import goal_of
    from fmct_hpc.probe.problem import Fitted

    used, places = np.unique(
        np.concatenate([problem.train, problem.validation, problem.scored]), return_inverse=True
    )
    train, validation, scored = np.split(places, np.cumsum([len(problem.train), len(problem.validation)]))
    config = inputs.config.finetune.model_copy(update={"seed": problem.seed})
    goal = goal_of(problem.kind, problem.labels[used], train, config)
    rows, members = inputs.source.volumes_of(used)
    parts = Rows(train, validation, np.concatenate([validation, scored]))
    title = f"{inputs.source.spec.name}: fine-tuning"
    views = inputs.source.views(rows)
    finetuned = finetune(inputs.source.tunable, views, goal, parts, config, members, title)
    scores = goal.predictions(finetuned.scores)
    chosen = {"step": float(finetuned.step)}
    head = finetuned.model.as_head(goal)
    fitted = Fitted(scores[: len(validation)], scores[len(validation) :], chosen, head)
    return fitted, finetuned.model.encoder
