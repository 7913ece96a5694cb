"""A scan whose images bear a Series Instance UID each: no series is a volume, and each says why."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from preprocess.reasons import Reason, Rejection

if TYPE_CHECKING:
    from preprocess.select.study import Outcome

LEAST_IMAGES = 5
"""Series of one image in a study that are too many to be key images and single slices by intent."""


def told(outcomes: Sequence["Outcome"]) -> list["Outcome"]:
    """The outcomes of a study, where series of one image were refused for that with what they are together.

    Careless anonymisers make a UID for each file. The UIDs stay what they are: which images belong together
    is the exporter's to say.
    """
    single = [one for one in outcomes if _is_single(one)]
    places = {one.series.instances[0].position for one in single}
    if len(places) < LEAST_IMAGES:
        return list(outcomes)
    detail = (
        f"1 image; {len(single)} series of this study have one image each, at {len(places)} positions: "
        "Series Instance UID (0020,000E) differs from slice to slice; give all images of a scan the same one "
        "and scan again"
    )
    rejection = Rejection(Reason.TOO_FEW_SLICES, detail)
    return [replace(one, rejection=rejection) if _is_single(one) else one for one in outcomes]


def _is_single(outcome: "Outcome") -> bool:
    rejection = outcome.rejection
    return (
        rejection is not None
        and rejection.reason is Reason.TOO_FEW_SLICES
        and len(outcome.series.instances) == 1
    )
