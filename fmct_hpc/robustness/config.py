"""Configuration of `fmct robustness`: that of a sweep, with the changes."""

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, Seed
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.robustness.changes import CHANGES
from shards.section import Section


class ChangesConfig(Section):
    """Severities of each change, in its unit; an empty list disables the change."""

    thicker: tuple[Above0, ...] = (2.5, 5.0, 7.5)
    """Slice thickness in mm: as in trauma and routine head CT, and in older archives."""
    blur: tuple[Above0, ...] = (1.0, 2.0, 3.0)
    """FWHM in mm, in the axial plane: from hardly visible on a grid of 1 mm to clearly smooth."""
    sharpen: tuple[Above0, ...] = (0.5, 1.0, 2.0)
    """Added multiple of detail finer than 2 mm."""
    noise: tuple[Above0, ...] = (5.0, 10.0, 20.0)
    """Standard deviation in HU: approximately that of 5 mm slices, thin slices, and low dose."""
    seed: Seed = 0
    """For the noise."""

    @model_validator(mode="after")
    def _each_severity_once(self) -> "ChangesConfig":
        for name in CHANGES:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a duplicate severity")
        if not self.steps:
            raise ValueError("no change has a severity")
        return self

    @property
    def steps(self) -> tuple[tuple[str, float], ...]:
        """Each change and severity."""
        return tuple((name, severity) for name in CHANGES for severity in sorted(getattr(self, name)))


class RobustnessConfig(SweepConfig):
    """A sweep's configuration with changes of the tested volumes."""

    changes: ChangesConfig = Field(default=ChangesConfig())
