"""Series of the catalog made up for tests: header facts without files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocess.dicom.catalog import Instance, Series

EVERY_5_MM = [5.0 * k for k in range(30)]
AXIAL = Instance(
    path=Path("x"),
    size=1,
    mtime_ns=1,
    sop_uid="1",
    sop_class="1.2.840.10008.5.1.4.1.1.2",
    modality="CT",
    frame_of_reference_uid="3",
    transfer_syntax="1.2.840.10008.1.2.1",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    acquisition_number=1,
    instance_number=1,
    kernel="H30s",
    kvp=120.0,
    frames=1,
    samples=1,
    rows=512,
    columns=512,
    position=(0.0, 0.0, 0.0),
    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    pixel_spacing=(0.5, 0.5),
    thickness=5.0,
    tilt=0.0,
)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def stack(heights: list[float] | None = None, **change: Any) -> tuple[Instance, ...]:
    """Parallel slices at these heights (mm), by default 30 of 5 mm."""
    heights = heights if heights is not None else [5.0 * k for k in range(30)]
    return tuple(
        replace(AXIAL, sop_uid=f"1.{k}", instance_number=k, position=(0.0, 0.0, z), **change)
        for k, z in enumerate(heights)
    )


def series(instances: tuple[Instance, ...], **change: str) -> Series:
    """Series 2 of study 1; its texts are empty."""
    texts = ("patient", "1", "2", "GE", "", "", "", "", "", "", "")
    return replace(Series(*texts, instances), **change)
