"""Series that accompany a head CT and do not become volumes."""

from collections.abc import Iterable, Iterator

import numpy as np
from pydicom.dataset import Dataset

from preprocess.demo.anatomy import head_hu
from preprocess.demo.identity import uid
from preprocess.demo.job import File, SeriesJob
from preprocess.demo.series_files import SeriesFiles
from preprocess.demo.stack import Plane, plane
from preprocess.demo.writer import ct_image, dose_report, encode, mr_image, screen_capture, slice_elements

X, Y, Z = np.eye(3)
LOCALIZER_MM = 320.0
LOCALIZER_PLANES_MM = np.linspace(-80, 80, 12)
"""Number of sagittal planes whose mean represents the X-ray projection."""
CORONAL_MM = np.arange(-80, 80, 10.0)
RESONANCE_MM = np.arange(-40, 80, 12.0)


def localizer_file(job: SeriesJob) -> Iterator[File]:
    """One lateral projection of the head."""
    study, scanner = job.study, job.study.scanner
    centre = np.asarray(study.head.origin)
    view = plane(centre, Y, -Z, LOCALIZER_MM, study.matrix, 1.0)
    through = head_hu(view.points() + LOCALIZER_PLANES_MM[:, None, None, None] * X, study.head)
    projection = np.mean(through, axis=0) + 400
    stored = scanner.encoding.store(projection, np.ones_like(projection, bool))
    data = ct_image(
        job.facts, view, scanner.encoding, ("ORIGINAL", "PRIMARY", "LOCALIZER"), scanner.soft, 0.0
    )
    sop_uid = uid(job.facts.uid, 0)
    data.update(slice_elements(sop_uid, 1, view, stored))
    yield File(1, sop_uid, encode(data, job.facts.transfer_syntax))


def dose_report_file(job: SeriesJob) -> Iterator[File]:
    """A structured report without pixels."""
    sop_uid = uid(job.facts.uid, 0)
    yield File(1, sop_uid, encode(dose_report(job.facts, sop_uid), job.facts.transfer_syntax))


def screen_capture_file(job: SeriesJob) -> Iterator[File]:
    """A colour screenshot: a window of the head with a bar of pretended text."""
    view = plane(np.asarray(job.study.head.origin), X, Y, 250.0, job.study.matrix, 5.0)
    grey = np.clip(head_hu(view.points(), job.study.head) * (255 / 80), 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[:6, :, 0] = 255 * (np.arange(job.study.matrix) % 5 < 3)
    sop_uid = uid(job.facts.uid, 0)
    yield File(1, sop_uid, encode(screen_capture(job.facts, sop_uid, picture), job.facts.transfer_syntax))


def coronal_files(job: SeriesJob) -> Iterator[File]:
    """A coronal reformat of the axial images."""
    study, scanner = job.study, job.study.scanner
    centres = [study.head.origin + offset * Y for offset in CORONAL_MM]
    views = [plane(centre, X, -Z, scanner.field_of_view, study.matrix, 10.0) for centre in centres]
    image_type = ("DERIVED", "SECONDARY", "REFORMATTED")
    shared = ct_image(job.facts, views[0], scanner.encoding, image_type, scanner.soft, 0.0)
    yield from _files(job, shared, views, job.render(views, scanner.soft, scanner.encoding, job.noise()))


def resonance_files(job: SeriesJob) -> Iterator[File]:
    """Axial slices of the same head from another modality."""
    study = job.study
    views = [plane(study.head.origin + offset * Z, X, Y, 240.0, study.matrix, 5.0) for offset in RESONANCE_MM]
    hu = head_hu(np.stack([view.points() for view in views]), study.head)
    stored = np.clip(8 * (hu + 40), 0, 900).astype(np.uint16)
    yield from _files(job, mr_image(job.facts, views[0]), views, stored)


def _files(
    job: SeriesJob, shared: Dataset, views: list[Plane], stored: Iterable[np.ndarray]
) -> Iterator[File]:
    files = SeriesFiles(shared, job.facts.transfer_syntax)
    for index, (view, pixels) in enumerate(zip(views, stored, strict=True)):
        sop_uid = uid(job.facts.uid, index)
        yield File(index + 1, sop_uid, files.file(slice_elements(sop_uid, index + 1, view, pixels)))
