"""The configuration of a study: cohort, pretraining, and comparisons."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import Above0, Fraction, Positive, Seed
from fmct_hpc.probe.methods.finetune import FinetuneConfig, FinetunePool
from shards.renamed_keys import with_present_names
from shards.section import Section
from shards.sharing_section import Sharing


class CohortConfig(Section):
    """The heads; each is a separate patient."""

    seed: Seed = 1
    """Seed of the reported cohort; recipes are tuned on a cohort of another seed, never on a test split."""
    unlabelled: Positive = 2000
    """Pretraining heads, of the seen scanners; the first `labelled` of them also have labels."""
    labelled: Positive = 1000
    validation: Positive = 300
    """Heads of the seen scanners, to choose the length of fine-tuning and the strength of probes."""
    test: Positive = 600
    """Heads of the seen scanners (in distribution)."""
    unseen: Positive = 500
    """Heads of scanners that are used for nothing else (out of distribution)."""
    edge: Positive = 24
    """Voxels per edge of the stored cube."""
    spacing_mm: Annotated[float, Field(gt=0)] = 7.0
    """Coarse, so that two cores can process enough heads; lesion sizes are chosen to be difficult at it."""
    prevalence: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Prevalence of each finding, independent of the others."""

    @model_validator(mode="after")
    def _labelled_are_seen(self) -> "CohortConfig":
        if self.labelled > self.unlabelled:
            raise ValueError("cohort.labelled must be at most cohort.unlabelled")
        return self


class FrozenConfig(Section):
    """Logistic regression on frozen features."""

    pool: tuple[FinetunePool, ...] = ("cls", "mean", "max")
    """As for fine-tuning, so that the two differ only in the encoder."""
    strengths: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Inverse regularisation strengths; the one with the lowest validation log loss is used."""


class Objective(Section):
    """A pretraining objective."""

    train: dict[str, Any]
    """Sections that override the study's `train`."""
    pretrainings: Positive = 1
    """Number of pretrainings per size, with different seeds; the study's seeds are distributed over them."""
    draws: Positive | None = None
    """Number of the study's seeds to use, from the first; None: all."""
    finetune: dict[str, Any] = Field(default_factory=dict)
    """Values that override the study's `finetune`."""
    parts: tuple[str, ...] = ()
    """Names of the objectives that this one combines; the report compares it with the best of them."""

    @field_validator("finetune")
    @classmethod
    def _present_names(cls, changes: dict[str, Any]) -> dict[str, Any]:
        return with_present_names(FinetuneConfig, changes, warn=True)


class TuningConfig(Section):
    """The grid of `fmct study --tune`: the same for every arm and for training from scratch."""

    seed: Seed = 1000
    """Seed of the tuning cohort."""
    lr: tuple[Above0, ...] = (5e-4, 1e-3, 2e-3, 4e-3)
    """Peak learning rates of fine-tuning."""
    steps: tuple[Positive, ...] = (500, 1000, 2000)
    draws: Positive = 2
    """Number of draws of labelled heads."""


class ReducedConfig(Section):
    """The subset of the study that `fmct study --reduced` runs."""

    objectives: tuple[str, ...] = ()
    """Names of objectives; empty: all."""
    draws: Positive | None = None
    """Number of the study's seeds, from the first; None: all."""


class StudyConfig(Section):
    """The configuration of `fmct study`."""

    cohort: CohortConfig = CohortConfig()
    sizes: tuple[Positive, ...] = (300, 1200)
    """Numbers of pretraining heads; label fractions are compared at the largest."""
    fractions: tuple[Fraction, ...] = (0.01, 0.05, 0.1, 0.5, 1.0)
    """Fractions of the labelled heads."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Each seed draws its own labelled heads and fine-tuning."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Sections of `fmct train`'s configuration for all objectives, without data.path and run.seed."""
    passes: Literal["epochs", "steps"] = "epochs"
    """Whether all sizes get as many epochs or as many steps; the recipe has the steps of the largest."""
    objectives: dict[str, Objective] = Field(default_factory=dict)
    """Objectives by name."""
    finetune: FinetuneConfig = FinetuneConfig()
    scratch: FinetuneConfig = FinetuneConfig(layer_decay=1)
    """Training from random weights, tuned on the same grid."""
    tuning: TuningConfig = TuningConfig()
    reduced: ReducedConfig = ReducedConfig()
    frozen: FrozenConfig = FrozenConfig()
    compared_fraction: Fraction = 0.1
    """Label fraction at which data sizes and seen and unseen scanners are compared."""
    bootstrap: Positive = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    privacy: Sharing = Sharing()

    def finetuning(self, objective: str | None) -> FinetuneConfig:
        """Fine-tuning settings of an objective; for None, of training from scratch."""
        if objective is None:
            return self.scratch
        return FinetuneConfig.model_validate(
            {**self.finetune.model_dump(), **self.objectives[objective].finetune}
        )

    def recipe(self, objective: str, size: int, data: Path, seed: int) -> TrainConfig:
        """The configuration of one pretraining."""
        values: dict[str, Any] = {}
        for layer in (self.train, self.objectives[objective].train):
            for name, section in layer.items():
                values[name] = {**values.get(name, {}), **section}
        values["data"] = {**values.get("data", {}), "path": data}
        values["run"] = {**values.get("run", {}), "seed": seed}
        recipe = TrainConfig.model_validate(values)
        if recipe.run.epochs is not None:
            raise ValueError("train.run.epochs: set run.steps instead, for the largest size; see `passes`")
        if self.passes == "steps":
            return recipe
        steps = max(1, round(recipe.run.steps * size / max(self.sizes)))
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})})

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        if not (self.sizes and self.seeds and self.fractions and self.objectives):
            raise ValueError("sizes, seeds, fractions and objectives need at least one value each")
        if max(self.sizes) > self.cohort.unlabelled:
            raise ValueError("sizes must be at most cohort.unlabelled")
        if self.compared_fraction not in self.fractions:
            raise ValueError("compared_fraction must be one of fractions")
        for name, objective in self.objectives.items():
            if unknown := sorted({*objective.parts} - {*self.objectives} | ({*objective.parts} & {name})):
                raise ValueError(f"objectives.{name}.parts: {unknown[0]} is no other objective of the study")
        if unknown := sorted({*self.reduced.objectives} - {*self.objectives}):
            raise ValueError(f"reduced.objectives: {unknown[0]} is no objective of the study")
        recipes, part = [], ""
        for name in self.objectives:
            try:
                part = "train"
                recipes.append(self.recipe(name, max(self.sizes), Path(), 0))
                part = "finetune"
                self.finetuning(name)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"]))
                raise ValueError(f"{part} with objectives.{name}.{part}: {key}: {first['msg']}") from None
        inputs = {"windows", "view_size", "field", "field_mm"}
        if len({recipe.model.model_dump_json() for recipe in recipes}) > 1:
            raise ValueError("objectives must not differ in model")
        if len({recipe.data.model_dump_json(include=inputs) for recipe in recipes}) > 1:
            raise ValueError(f"objectives must not differ in data.{', data.'.join(sorted(inputs))}")
        return self
