"""Configuration of the data: the dataset, and how views are cut from its volumes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, BoxSize, Edges, Fraction, Positive, edges
from shards.section import Section


class DataConfig(Section):
    """The dataset, and how views are cut from its volumes."""

    path: Path
    """A shard dataset: the directory that holds dataset.json."""
    windows: tuple[tuple[float, float], ...] = ((40, 80), (80, 200), (600, 2800))
    """(level, width) in HU, one channel each: brain, subdural, bone (the reference's)."""
    view_size: BoxSize = 96
    """Edge of a view in voxels after resizing, or three, (D, H, W): a whole field of 224 mm in 56 x 224 x 224
    has voxels of 4 x 1 x 1 mm (reference: 96)."""
    field: Literal["isotropic", "squeezed"] = "isotropic"
    """The region that crops are drawn from: a cube of the volume at its own spacing or, as in the reference,
    its foreground resized to a cube without keeping the aspect (lengths are then in voxels of that cube)."""
    field_mm: Above0 = 224.0
    """Edge of the padded, cropped or resized cube that crops are drawn from (reference: 224)."""
    global_crop_mm: tuple[float, float] = (112.0, 224.0)
    """Minimum and maximum edge of a global crop (reference: 112 to the whole field)."""
    local_crop_mm: tuple[float, float] = (64.0, 112.0)
    """Minimum and maximum edge of a local crop (reference: 64 to 112)."""
    local_field_mm: Above0 = 192.0
    """Local crops stay in this central cube (reference: 192)."""
    global_views: Literal[1, 2] = 2
    """DINO compares two (reference: 2); MAE alone needs only one."""
    local_views: Annotated[int, Field(ge=0)] = 2
    """Local views beside the global ones (reference: 2)."""
    local_view_size: BoxSize | None = None
    """Edge of a local view in voxels, or three, (D, H, W), at most view_size; None: view_size (as in the
    reference). A smaller one has the same extent in mm with fewer voxels, and so fewer tokens. DINO uses 96
    and 224 pixels (Caron et al. 2021, section 3.1)."""
    flip_probability: Fraction = 0.2
    shift_probability: Fraction = 0.5
    shift: AtLeast0 = 0.2
    """Maximum intensity shift, in units of the windowed range [0, 1]."""
    smooth_probability: Fraction = 0.2
    smooth_sigma: tuple[float, float] = (0.5, 1.0)
    """Range of the Gaussian sigma in view voxels; first global view only, as in the reference."""
    gamma_probability: Fraction = 0.2
    gamma: tuple[float, float] = (0.2, 1.0)
    """Range of the exponent of the contrast change; second global view only, as in the reference."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Reader processes per rank; 0 reads in the training process."""
    prefetch: Positive = 2
    """Batches prepared in advance."""
    cache: Path | None = None
    """A directory on the node's disk for prefetched copies of shards; None: no copies."""
    cache_gb: Above0 = 500.0
    """Maximum size of the copies, in 10⁹ bytes (about 256 shards of 2 GB, the most in use at a time)."""
    damaged: Literal["stop", "skip"] = "stop"
    """If a volume fails its checks: end the run with its name, or count it and use another volume."""

    @property
    def views(self) -> int:
        """Number of global and local views."""
        return self.global_views + self.local_views

    @property
    def view_sizes(self) -> tuple[Edges, ...]:
        """Edges of each view in voxels, the global ones first."""
        whole, local = edges(self.view_size), edges(self.local_view_size or self.view_size)
        return (whole,) * self.global_views + (local,) * self.local_views

    @model_validator(mode="after")
    def _crops_fit(self) -> "DataConfig":
        for crop, region in (("global_crop_mm", "field_mm"), ("local_crop_mm", "local_field_mm")):
            low, high = getattr(self, crop)
            if not 0 < low <= high <= getattr(self, region):
                raise ValueError(f"data.{crop} must be (min, max) with 0 < min <= max <= data.{region}")
        local = edges(self.local_view_size or self.view_size)
        if any(small > large for small, large in zip(local, edges(self.view_size), strict=True)):
            raise ValueError("data.local_view_size must be at most data.view_size along each axis")
        if self.local_field_mm > self.field_mm:
            raise ValueError("data.local_field_mm must be at most data.field_mm")
        if any(width <= 0 for _, width in self.windows) or not self.windows:
            raise ValueError("data.windows needs at least one (level, width), with widths above 0")
        if not 0 < self.smooth_sigma[0] <= self.smooth_sigma[1]:
            raise ValueError("data.smooth_sigma must be (min, max) with 0 < min <= max")
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise ValueError("data.gamma must be (min, max) with 0 < min <= max")
        return self
