"""The methods that a probe can use. A new one is a file of this folder, and its lines here."""

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
"""By name, in the order in which messages list them."""

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
    """The methods' sections, each under the method's name."""


def reads(methods: Iterable[str]) -> set[Reads]:
    """What some methods read."""
    return {METHODS[name].reads for name in methods}


def for_kind(kind: str) -> list[str]:
    """The methods that can learn a kind of label."""
    return [name for name, method in METHODS.items() if method.kinds is None or kind in method.kinds]
