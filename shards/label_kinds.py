"""The kinds of label that a column of a table may hold, and the valid values of each kind.

Columns without a kind are binary. A time-to-event label is named by its event column (1: event observed,
0: censored at the last follow-up); its kind names the column of times.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from shards.errors import FmctError
from shards.section import Section

KindName = Literal["binary", "multiclass", "ordinal", "regression"]
MAX_CLASSES = 100
"""Classes are numbered from 0; a greater number is probably a measurement or an identifier."""


class Survival(Section):
    """Time to an event."""

    survival: str
    """The column of times from the scan to the event or the last follow-up, in any unit, none below 0."""


def _spec(given: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Validate one of the names or {survival: COLUMN}; the error lists them in one line."""
    try:
        return read(given)
    except ValidationError:
        names = ", ".join(get_args(KindName))
        raise ValueError(f"expected {names}, or {{survival: COLUMN OF TIMES}}") from None


KindSpec = Annotated[KindName | Survival, WrapValidator(_spec)]
Kinds = dict[str, KindSpec]
EXPECTED: Mapping[str, str] = {
    "binary": "0, 1 or empty",
    "multiclass": f"the number of a class, 0 to {MAX_CLASSES - 1}, or empty",
    "ordinal": f"the number of a class, 0 to {MAX_CLASSES - 1}, or empty",
    "regression": "a finite number or empty",
    "event": "0, 1 or empty",
    "time": "a time of 0 or more, or empty",
}


class LabelKinds(Section):
    """The mapping alone, as read by `fmct labels --kinds`."""

    kinds: Kinds = Field(default={})


def valid(rule: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values, (N,), are valid by a rule of `EXPECTED`; NaN (unknown) is valid."""
    unknown = np.isnan(values)
    if rule in ("binary", "event"):
        return unknown | (values == 0) | (values == 1)
    if rule in ("multiclass", "ordinal"):
        return unknown | ((values == np.floor(values)) & (values >= 0) & (values < MAX_CLASSES))
    finite = np.isfinite(values)
    return unknown | (finite & (values >= 0) if rule == "time" else finite)


def rules(kinds: Mapping[str, KindSpec], columns: tuple[str, ...], where: object) -> dict[str, str]:
    """The rule of `EXPECTED` for each label column.

    Raises FmctError that names the key if `where` lacks the column of a kind, or if a column of times is
    itself a label or belongs to two labels.
    """
    by_column = dict.fromkeys(columns, "binary")
    times: dict[str, str] = {}
    for name, spec in kinds.items():
        if name not in by_column:
            raise FmctError(f"{where}: kinds.{name}: has no such column, only {', '.join(columns)}")
        if not isinstance(spec, Survival):
            by_column[name] = spec
            continue
        if spec.survival not in by_column or spec.survival == name:
            raise FmctError(f"{where}: kinds.{name}: has no column of times {spec.survival!r:.80}")
        if spec.survival in kinds or spec.survival in times:
            raise FmctError(
                f"{where}: kinds.{name}: column {spec.survival} is already used by "
                f"kinds.{times.get(spec.survival, spec.survival)}; keep one"
            )
        times[spec.survival] = name
        by_column[name] = "event"
    return by_column | dict.fromkeys(times, "time")


def require_several(where: object, name: str, rule: str, values: NDArray[np.float64]) -> None:
    """Raise FmctError if a column that is not binary has only one value."""
    if rule in ("binary", "time"):
        return
    known = np.unique(values[~np.isnan(values)])
    if rule == "event":
        if 1 not in known:
            raise FmctError(f"{where}: column {name}: no event in any row; leave the label out")
    elif len(known) < 2:
        unit = "value" if rule == "regression" else "class"
        raise FmctError(f"{where}: column {name}: {len(known)} {unit} only, two are needed; leave it out")
