"""Configuration of a benchmark: a grid of encoders and methods, and the datasets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from fmct_hpc.probe.config import CohortConfig, ComparisonConfig, SweepConfig


class DatasetConfig(CohortConfig):
    """One labelled dataset: the cohort of a sweep, with a name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Name in tables and of its sweep's folder."""
    about: Annotated[str, Field(max_length=200)] = ""
    """Description for the page: origin of volumes and labels."""


class BenchmarkConfig(ComparisonConfig):
    """All of `fmct benchmark`."""

    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]

    def sweep(self, dataset: DatasetConfig, out: Path) -> SweepConfig:
        """The sweep of one dataset, with features in `out`/features."""
        grid = {name: getattr(self, name) for name in ComparisonConfig.model_fields}
        cohort = {name: getattr(dataset, name) for name in CohortConfig.model_fields}
        return SweepConfig.model_validate({**grid, **cohort, "features": out / "features"})

    @model_validator(mode="after")
    def _one_of_each_name(self) -> "BenchmarkConfig":
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError("two datasets have the same name, which must identify results")
        return self
