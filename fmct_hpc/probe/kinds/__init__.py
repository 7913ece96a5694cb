"""Kinds of label, one class and file each, with loss, predictions and metrics."""

from fmct_hpc.probe.kinds.base import Kind
from fmct_hpc.probe.kinds.binary import BINARY, Binary
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival
from shards.label_kinds import KindSpec

KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (Binary, Multiclass, Ordinal, Regression, Survival)
}

__all__ = ["BINARY", "KINDS", "Kind", "kind_class"]


def kind_class(spec: KindSpec) -> type[Kind]:
    """The class of a kind as given in a configuration."""
    return KINDS[spec if isinstance(spec, str) else "survival"]
