"""The configuration of preprocessing: what is kept, and what a stored volume looks like."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shards.schema import ShardFormat


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SelectConfig(_Section):
    """Which series become volumes (issue-level rules; DICOM attributes in brackets)."""

    min_slices: Annotated[int, Field(ge=2)] = 10
    """A head at the coarsest clinical spacing, 10 mm, still has over 10 slices."""
    max_slice_gap_mm: Annotated[float, Field(gt=0)] = 10.0
    """Interpolating across more than one thick slice invents anatomy."""
    min_coverage_mm: Annotated[float, Field(gt=0)] = 80.0
    """Half of an adult head's height; less is a partial scan."""
    kvp_range: tuple[float, float] = (80.0, 150.0)
    """The reference's own filter (KVP 0018,0060)."""
    max_obliquity_deg: Annotated[float, Field(ge=0, le=90)] = 45.0
    """Greatest angle of the slice normal to the long axis: gantries tilt to 30, reformats stand at 90."""
    kernels: tuple[str, ...] = ("soft", "unknown")
    """Bone kernels amplify noise in brain; their study nearly always has a soft twin."""


class GridConfig(_Section):
    """The canonical grid on which volumes are stored."""

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """(D, H, W). 1 mm isotropic is the reference's spacing."""
    crop_margin_mm: Annotated[float, Field(ge=0)] = 5.0
    """Air kept around the head, so that smoothing and small rotations see no edge."""
    air_threshold_hu: float = -500.0
    """Half-way between air (-1000) and soft tissue (0): the head is what is denser."""


class OutputConfig(_Section):
    """How volumes are written."""

    formats: tuple[ShardFormat, ...] = ("zarr", "webdataset")
    shard_mib: Annotated[int, Field(ge=1)] = 2048
    """Uncompressed MiB of source pixels per task and shard; 1 to 4 GiB keeps files to thousands."""


class PreprocessConfig(_Section):
    """All of `fmct preprocess`."""

    key_file: Path
    """The secret of the identifiers' HMAC (made by `fmct keygen`); it never leaves this file."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Processes; one volume at a time each."""
    select: SelectConfig = SelectConfig()
    grid: GridConfig = GridConfig()
    output: OutputConfig = OutputConfig()

    def digest(self) -> str:
        """SHA-256 of what shapes a volume's voxels: selection and grid, not paths or workers."""
        text = self.select.model_dump_json() + self.grid.model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()
