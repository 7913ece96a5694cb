"""Synthetic series of a catalog for tests: header facts without files."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from preprocess.dicom.catalog import SERIES_KEY, Instance, Series, Texts

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
    texts=Texts(manufacturer="GE"),
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
    """Series 2 of study 1; its images' texts are empty."""
    key = {"patient_id": "patient", "study_uid": "1", "series_uid": "2"}
    key |= {name: change.pop(name) for name in SERIES_KEY if name in change}
    return Series(**key, instances=tuple(with_texts(instances, **change)) if change else instances)


def with_texts(instances: Iterable[Instance], **change: Any) -> Iterator[Instance]:
    """The images with some of their texts (`Texts`) replaced."""
    return (replace(i, texts=replace(i.texts, **change)) for i in instances)
