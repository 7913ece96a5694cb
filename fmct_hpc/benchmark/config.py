"""The configuration of a benchmark: a grid of encoders and methods, and the datasets that it is for."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from fmct_hpc.probe.config import CohortConfig, ComparisonConfig, SweepConfig


class DatasetConfig(CohortConfig):
    """One labelled dataset: what a sweep is of, under a name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """What it is called in tables; its sweep's folder too."""
    about: Annotated[str, Field(max_length=200)] = ""
    """A line for the page: where the volumes and labels come from."""


class BenchmarkConfig(ComparisonConfig):
    """All of `fmct benchmark`."""

    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]

    def sweep(self, dataset: DatasetConfig, out: Path) -> SweepConfig:
        """The sweep of one dataset, its features in `out`/features."""
        grid = {name: getattr(self, name) for name in ComparisonConfig.model_fields}
        cohort = {name: getattr(dataset, name) for name in CohortConfig.model_fields}
        return SweepConfig.model_validate({**grid, **cohort, "features": out / "features"})

    @model_validator(mode="after")
    def _one_of_each_name(self) -> "BenchmarkConfig":
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError("two datasets have the same name; results are told apart by it")
        return self
