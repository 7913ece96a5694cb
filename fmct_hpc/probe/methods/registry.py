"""The methods of probes. A new method is a file in this folder and its lines here."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from fmct_hpc.probe.methods.attentive import Attentive, AttentiveKeys
from fmct_hpc.probe.methods.base import Method, Reads
from fmct_hpc.probe.methods.finetune import Finetune, FinetuneKeys
from fmct_hpc.probe.methods.linear import Linear, LinearKeys
from fmct_hpc.probe.methods.logistic import Logistic, LogisticKeys
from fmct_hpc.probe.methods.neighbours import Neighbours, NeighboursKeys

_ALL: tuple[Method, ...] = (Logistic(), Linear(), Neighbours(), Attentive(), Finetune())

METHODS = {method.name: method for method in _ALL}
"""By name, in the order of messages."""

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[*METHODS]


class MethodKeys(
    LogisticKeys,
    LinearKeys,
    NeighboursKeys,
    AttentiveKeys,
    FinetuneKeys,
):
    """The sections of all methods, each under the method's name."""


def reads(methods: Iterable[str]) -> set[Reads]:
    """The kinds of input required by `methods`."""
    return {METHODS[name].reads for name in methods}


def for_kind(kind: str) -> list[str]:
    """The methods that support a kind of label."""
    return [name for name, method in METHODS.items() if method.kinds is None or kind in method.kinds]
