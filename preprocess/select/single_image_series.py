"""Scans with a different Series Instance UID for each image: no series is a volume."""

from collections.abc import Sequence

from preprocess.reasons import Reason, Rejection
from preprocess.select.outcome import SeriesDecision, with_rejections

MIN_IMAGES = 5
"""This many single-image series in a study are not intentional key images or single slices."""


def with_explanations(study: Sequence[SeriesDecision]) -> tuple[SeriesDecision, ...]:
    """The series of a study; the rejections of single-image series explain what they are together.

    Careless anonymisers generate a UID for each file. The UIDs are not corrected: only the exporter knows
    which images belong together.
    """
    single = [one for one in study if _is_single(one)]
    places = {one.series.instances[0].position for one in single}
    if len(places) < MIN_IMAGES:
        return tuple(study)
    detail = (
        f"1 image; {len(single)} series of this study have one image each, at {len(places)} positions: "
        "Series Instance UID (0020,000E) differs from slice to slice; use the same UID for all images of a "
        "scan and scan again"
    )
    rejection = Rejection(Reason.TOO_FEW_SLICES, detail)
    return with_rejections(study, ((one.series, rejection) for one in single))


def _is_single(judged: SeriesDecision) -> bool:
    rejection = judged.rejection
    return (
        rejection is not None
        and rejection.reason is Reason.TOO_FEW_SLICES
        and len(judged.series.instances) == 1
    )
