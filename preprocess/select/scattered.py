"""A scan whose images bear a Series Instance UID each: no series is a volume, and each says why."""

from collections.abc import Sequence

from preprocess.reasons import Reason, Rejection
from preprocess.select.outcome import Judged, with_rejections

LEAST_IMAGES = 5
"""Series of one image in a study that are too many to be key images and single slices by intent."""


def told(study: Sequence[Judged]) -> tuple[Judged, ...]:
    """The series of a study, where series of one image were refused for that with what they are together.

    Careless anonymisers make a UID for each file. The UIDs stay what they are: which images belong together
    is the exporter's to say.
    """
    single = [one for one in study if _is_single(one)]
    places = {one.series.instances[0].position for one in single}
    if len(places) < LEAST_IMAGES:
        return tuple(study)
    detail = (
        f"1 image; {len(single)} series of this study have one image each, at {len(places)} positions: "
        "Series Instance UID (0020,000E) differs from slice to slice; give all images of a scan the same one "
        "and scan again"
    )
    rejection = Rejection(Reason.TOO_FEW_SLICES, detail)
    return with_rejections(study, ((one.series, rejection) for one in single))


def _is_single(judged: Judged) -> bool:
    rejection = judged.rejection
    return (
        rejection is not None
        and rejection.reason is Reason.TOO_FEW_SLICES
        and len(judged.series.instances) == 1
    )
