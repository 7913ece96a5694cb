"""What a part of the objective is: its hooks say all that the rest of the program asks of one.

A part is a file of this folder with the keys of its configuration and a class derived from `Part`;
registry.py lists them. A hook that a part leaves as it is says nothing: nothing is built, drawn or counted.

Whoever reads a configuration imports all parts, and most do not train: parts import PyTorch in the functions
that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from fmct_hpc.model.kinds import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fmct_hpc.config import TrainConfig
    from fmct_hpc.data.views import Views
    from fmct_hpc.objective.student import Student, Teacher
    from fmct_hpc.objective.targets import Centring
    from fmct_hpc.train.schedules import StepSettings

Built = TypeVar("Built", bound="nn.Module")


@dataclass(frozen=True)
class Seen:
    """What the student or the teacher saw of a micro-batch, and what a part has beside it."""

    network: Student | Teacher
    views: Views
    """The teacher's are global ones only."""
    whole: Tensor
    """Tokens of the global views, (G, B, prefix + n, width); of no view where no part shares the pass."""
    local: Tensor
    """Tokens of the local views, (L, B, prefix + m, width), m < n where those are smaller; L may be 0."""
    kept: Tensor | None
    """Which of the global views' N patches are encoded, int64 (G, B, n); None: all."""
    now: StepSettings
    """What is scheduled for this step."""
    drawn: Any = None
    """What this part's `draw` gave, on the device."""
    target: Tensor | None = None
    """What the teacher's answer became for this part, or what the anchor gave; None without one."""

    @property
    def cls(self) -> Tensor:
        """CLS tokens of all views, (V, B, width), the global ones first."""
        import torch

        return torch.cat([self.whole[:, :, 0], self.local[:, :, 0]])

    @property
    def whole_cls(self) -> Tensor:
        """CLS tokens of the global views, (G, B, width)."""
        return self.whole[:, :, 0]

    @property
    def whole_patches(self) -> Tensor:
        """Patch tokens of the global views, (G, B, n, width)."""
        return self.whole[:, :, self.network.encoder.prefix :]

    def module(self, name: str, kind: type[Built]) -> Built:
        """The network's module of that name, which some part has built."""
        found = self.network.get_submodule(name)
        assert isinstance(found, kind), f"{name} is a {type(found).__name__}, not a {kind.__name__}"
        return found


class Judged(NamedTuple):
    """What a part says of a micro-batch."""

    loss: Tensor
    """0-d float32, before its weight."""
    figures: Mapping[str, Tensor] = {}
    """Detached 0-d float32 tensors to record beside the loss: signs of health."""


class Sign(NamedTuple):
    """A sign that a run is not sound, by the figures of a step."""

    what: str
    """In words, of the run or its features."""
    shows: bool
    remedy: str
    """What to begin again with, keys named in full."""


class Costs(NamedTuple):
    """What a part adds for each volume of a step, beside the pass over all views that parts share."""

    student: int = 0
    """Operations of the student's forward pass; a multiplication and addition are two."""
    teacher: int = 0
    """The same of the teacher."""
    unneeded: int = 0
    """Operations of the student's whose input needs no gradient, so that their backward pass is no more
    than they are: those of a patch embedding."""
    tokens: int = 0
    """Tokens of an encoder's pass of its own."""
    cells: int = 0
    """Σ tokens · channels · blocks of transformers beside the encoder, for what backward passes keep."""
    targets: float = 0.0
    """float32 numbers that are kept for a rank's whole step, of all its volumes."""
    outputs: float = 0.0
    """float32 numbers that are kept for a micro-batch."""


class Gallery(NamedTuple):
    """Pictures that a part shows every run.images_every steps."""

    name: str
    """Of one of them; they are in a folder of the run named by its plural."""
    caption: str
    """In the report."""

    @property
    def folder(self) -> str:
        """In the run folder."""
        return f"{self.name}s"


class Part:
    """One term of L = Σ weight · L, as a training's configuration has it; it holds no state of its own."""

    name: ClassVar[str]
    """In keys (`<name>_weight`, final_weights), in metrics, on the console."""
    title: ClassVar[str]
    """In the report."""
    learns: ClassVar[bool] = True
    """Whether a run with no other part learns something."""
    relates_views: ClassVar[bool] = False
    """Whether it teaches the CLS token what the views of a volume have in common."""
    shares_pass: ClassVar[bool] = True
    """Whether it reads the one pass over all views, whole."""
    has_teacher: ClassVar[bool] = False
    """Whether it learns from what the teacher says of the global views."""
    anchored: ClassVar[bool] = False
    """Whether its target is the patch tokens of global views that the teacher gave some time ago."""
    needs: ClassVar[tuple[Need, ...]] = ("has_cls",)
    """What its encoder must do."""
    compares_volumes: ClassVar[bool] = False
    """Whether its loss is over the volumes of a micro-batch of all ranks together, of which it needs two."""
    taught: ClassVar[tuple[str, ...]] = ()
    """Which of its modules the teacher has too."""
    target_name: ClassVar[str] = ""
    """Of its centring's state in checkpoints."""
    curves: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Panels of the report beside its loss: their titles, and the figures that they show."""
    gallery: ClassVar[Gallery | None] = None
    """Where its `picture` goes."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @property
    def begins(self) -> float:
        """Share of all steps before which its weight is 0."""
        return 0.0

    @property
    def first_step(self) -> int:
        """The step from which on its weight may be above 0; steps are whole, whatever their share is."""
        return round(self.config.run.steps * self.begins)

    def refreshes(self, step: int) -> bool:
        """Whether the anchor becomes, before that step, what the teacher then is; of an `anchored` part."""
        return False

    def require(self) -> None:
        """Raise ValueError, one line with its keys, where the sections of the configuration don't fit it."""

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """Build what it trains beside the encoder, by names that checkpoints keep; ZeRO needs all used."""
        return {}

    def draw(self, step: int, samples: NDArray[np.int64]) -> Any:
        """What it draws for samples (B,) of a step: None, or a NamedTuple of tensors, some perhaps None.

        A pure function of the configuration, the step and each sample (`draws.generator`).
        """
        return None

    def hidden(self, network: Student, drawn: Any, kept: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """What it hides from the student in the shared pass; one part at most may hide anything.

        kept: `Seen.kept`. Returns bool (G, B, n), and a token (width,) in place of those patches' embeddings.
        """
        return None

    def teach(self, seen: Seen) -> Tensor:
        """What the teacher says of the global views, for a part that `has_teacher`."""
        raise NotImplementedError

    def centring(self) -> Centring | None:
        """Build what makes targets of what the teacher says; None: that is the target as it is."""
        return None

    def loss(self, seen: Seen) -> Judged:
        """Judge a micro-batch of this rank; the mean over ranks is the loss of the global one.

        A statistic over the batch is over all ranks, gradients included. Every module that the part has
        built takes part, with a gradient of 0 perhaps: under ZeRO 3 all ranks gather it together.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, int]:
        """Parameters of its `modules`, by their names, in closed form."""
        return {}

    def costs(self) -> Costs:
        """What it computes and keeps, in closed form."""
        return Costs()

    def signs(self, figures: Mapping[str, float], several: bool) -> list[Sign]:
        """Signs in the figures of a step, over all ranks, of which some may be missing.

        several: whether enough volumes were compared for them to be expected to differ.
        """
        return []

    def picture(self, student: Student, view: Tensor, drawn: Any) -> dict[str, Tensor]:
        """For its gallery, of one view (1, C, D, H, W): volumes (C, D, H, W) in [0, 1] by their titles.

        All ranks call it, without gradients.
        """
        raise NotImplementedError
