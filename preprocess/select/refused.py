"""Series that were refused before the catalog was written: rows of a table (preprocess.imports).

They stand in the catalog, so that they end in the quarantine as every other series that becomes no volume.
"""

from dataclasses import replace

from preprocess.dicom.catalog import Instance, Series
from preprocess.reasons import Reason, Rejection

_MARK = "refused"
"""In the place of a transfer syntax."""


def refused(instance: Instance, rejection: Rejection) -> Instance:
    """The one image that stands for the refused series."""
    told = rejection.reason.value, rejection.detail
    return replace(instance, transfer_syntax=_MARK, image_type=told)


def refusal_of(series: Series) -> Rejection | None:
    """Why the series was refused; None for one that selection has to judge."""
    first = series.instances[0]
    if first.transfer_syntax != _MARK:
        return None
    reason, detail = first.image_type
    return Rejection(Reason(reason), detail)
