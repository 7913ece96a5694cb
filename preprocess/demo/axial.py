"""Axial series of soft and bone kernels, with the quirks of their plan."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from pydicom import Dataset

from preprocess.demo.enhanced import enhanced_ct
from preprocess.demo.identity import uid
from preprocess.demo.job import File, SeriesJob
from preprocess.demo.plan import Kind, Quirk
from preprocess.demo.scanners import Encoding, Kernel
from preprocess.demo.series_files import SeriesFiles
from preprocess.demo.stack import Plane, axial_axes, axial_offsets, base_offsets, plane, vault_offsets
from preprocess.demo.streams import Stream, generator
from preprocess.demo.writer import ct_image, encode, slice_elements
from preprocess.reasons import Reason

_SLABS = {
    Quirk.BASE: base_offsets(),
    Quirk.VAULT: vault_offsets(),
    Quirk.TWO_SLABS: base_offsets() + vault_offsets(),
}
TILT_DEG = {Quirk.TILT_POSITIVE: 18.0, Quirk.TILT_NEGATIVE: -14.0}
TURN_DEG = 7.0
SLICE_MM = {Quirk.THIN: 3.0, Quirk.FINE: 1.25}
"""Slice distance of a thin series, the best of its study by its headers, and of one made for bone."""
SLICES_LEFT = 4
"""Slices of a series with the quirk of few slices."""
SLICES_GONE = 4
"""The gap in a series with missing slices: 20 mm and more."""
SLICES_TWICE = 3
"""Number of repeated slices in a series with duplicates."""
TRUNCATED_RUN = 3
BYTES_LEFT = 0.6
"""Remaining fraction of a truncated file; the cut is in its pixels."""
IMAGE_TYPE = ("ORIGINAL", "PRIMARY", "AXIAL")

LARGE_INTERCEPT = Encoding(signed=False, bits_stored=16, slope=1, intercept=-8192, padding=None)
"""An extended range: stored values stay positive down to -8192 HU."""


def axial_planes(job: SeriesJob) -> list[Plane]:
    """The series' slice planes from the base up, without those that a quirk removes."""
    quirks, scanner = job.plan.quirks, job.study.scanner
    distance = next((SLICE_MM[quirk] for quirk in quirks if quirk in SLICE_MM), scanner.slice_distance)
    slices = axial_offsets(distance)
    if slabs := _SLABS.keys() & set(quirks):
        slices = _SLABS[slabs.pop()]
    row, column = axial_axes(
        _tilt(quirks),
        TURN_DEG if Quirk.TURNED in quirks else 0.0,
        prone=Quirk.PRONE in quirks,
        feet_first=Quirk.FEET_FIRST in quirks,
    )
    # The table moves along the patient's long axis even with a tilted gantry: a sheared stack.
    centre = np.asarray(job.study.head.origin)
    planes = [
        plane(
            centre + np.array([0, 0, height]), row, column, scanner.field_of_view, job.study.matrix, thickness
        )
        for height, thickness in slices
    ]
    middle = len(planes) // 2
    if Quirk.FEW_SLICES in quirks:
        return planes[middle : middle + SLICES_LEFT]
    if Quirk.MISSING_SLICES in quirks:
        return planes[:middle] + planes[middle + SLICES_GONE :]
    return planes


def axial_files(job: SeriesJob) -> Iterator[File]:
    """The series' files, in geometric order; an enhanced series is one."""
    quirks, syntax = job.plan.quirks, job.facts.transfer_syntax
    planes = axial_planes(job)
    shared = ct_image(job.facts, planes[0], _encoding(job), IMAGE_TYPE, _kernel(job), _tilt(quirks))
    if Quirk.ENHANCED in quirks:
        data = enhanced_ct(
            shared, [own for _, _, own in _slices(job, planes)], uid(job.facts.uid, "enhanced")
        )
        yield File(1, data.SOPInstanceUID, encode(data, syntax))
        return
    count = len(planes)
    truncated = range(count // 2, count // 2 + _truncated(quirks))
    files = SeriesFiles(shared, syntax)
    for index, copy, own in _slices(job, planes):
        number, sop_uid = int(own.InstanceNumber), str(own.SOPInstanceUID)
        twice = Reason.DUPLICATE_SLICE if copy else None
        file = File(number, sop_uid, files.file(own), twice)
        if index in truncated:
            cut = file.content[: int(len(file.content) * BYTES_LEFT)]
            file = replace(file, content=cut, dropped=Reason.TRUNCATED_PIXEL_DATA)
        yield file
        if index < SLICES_TWICE and Quirk.DUPLICATE_FILES in quirks:
            yield replace(file, number=number + count, dropped=Reason.DUPLICATE_SLICE)


def _slices(job: SeriesJob, planes: list[Plane]) -> Iterator[tuple[int, int, Dataset]]:
    """Number of the slice, number of its copy, and the elements that are its own."""
    numbers = _instance_numbers(job, len(planes))
    rendered = job.render(planes, _kernel(job), _encoding(job), job.noise())
    for index, (slice_plane, stored) in enumerate(zip(planes, rendered, strict=True)):
        for copy in range(1 + (index < SLICES_TWICE and Quirk.DUPLICATE_POSITIONS in job.plan.quirks)):
            sop_uid = uid(job.facts.uid, index, copy)
            yield (
                index,
                copy,
                slice_elements(sop_uid, numbers[index] + copy * len(planes), slice_plane, stored),
            )


def _kernel(job: SeriesJob) -> Kernel:
    scanner = job.study.scanner
    return scanner.bone if job.plan.kind is Kind.BONE else scanner.soft


def _encoding(job: SeriesJob) -> Encoding:
    return LARGE_INTERCEPT if Quirk.LARGE_INTERCEPT in job.plan.quirks else job.study.scanner.encoding


def _truncated(quirks: tuple[Quirk, ...]) -> int:
    """Number of neighbouring truncated files; the gap of one can be interpolated, that of a run cannot."""
    if Quirk.TRUNCATED_RUN in quirks:
        return TRUNCATED_RUN
    return int(Quirk.TRUNCATED_FILE in quirks)


def _tilt(quirks: tuple[Quirk, ...]) -> float:
    return next((TILT_DEG[quirk] for quirk in quirks if quirk in TILT_DEG), 0.0)


def _instance_numbers(job: SeriesJob, count: int) -> list[int]:
    """Instance Number (0020,0013) of the slices from the base up."""
    if Quirk.SHUFFLED_NUMBERS in job.plan.quirks:
        rng = generator(job.seed, Stream.NAMES, job.study.index, job.facts.number)
        return [int(n) + 1 for n in rng.permutation(count)]
    numbers = list(range(1, count + 1))
    return numbers[::-1] if job.study.scanner.superior_first else numbers
