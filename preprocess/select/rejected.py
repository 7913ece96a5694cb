"""Series that were rejected before the catalog was written: rows of a table (preprocess.imports).

They are in the catalog, so that they go to the quarantine like every other rejected series.
"""

from dataclasses import replace

from preprocess.dicom.catalog import Instance, Series
from preprocess.reasons import Reason, Rejection

_MARK = "refused"
"""Marks a rejected series, in place of a transfer syntax."""


def refused(instance: Instance, rejection: Rejection) -> Instance:
    """The single image that represents the rejected series."""
    stated = rejection.reason.value, rejection.detail
    return replace(instance, transfer_syntax=_MARK, image_type=stated)


def refusal_of(series: Series) -> Rejection | None:
    """Why the series was rejected; None for a series that selection must judge."""
    first = series.instances[0]
    if first.transfer_syntax != _MARK:
        return None
    reason, detail = first.image_type
    return Rejection(Reason(reason), detail)
