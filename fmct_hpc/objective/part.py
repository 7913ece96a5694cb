"""The interface of the objective's parts: hooks that the rest of the program calls.

A part is a file in this folder with its configuration keys and a class derived from `Part`; registry.py lists
them. Default hooks do nothing: nothing is built, drawn or counted.

Reading a configuration imports all parts, mostly without training: parts import PyTorch in the functions that
use it.
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
class ForwardPass:
    """The student's or teacher's pass over a micro-batch, and a part's further inputs."""

    network: Student | Teacher
    views: Views
    """The views; for the teacher, global ones only."""
    whole: Tensor
    """Tokens of the global views, (G, B, prefix + n, width); empty if no part uses the shared pass."""
    local: Tensor
    """Tokens of the local views, (L, B, prefix + m, width), m < n if these are smaller; L may be 0."""
    kept: Tensor | None
    """Numbers of the global views' encoded patches, int64 (G, B, n), of N; None: all."""
    now: StepSettings
    """The scheduled values of this step."""
    drawn: Any = None
    """The result of this part's `draw`, on the device."""
    target: Tensor | None = None
    """This part's target, from the teacher or the anchor; None without one."""

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
        """The network's module of that name, which a part has built."""
        module = self.network.get_submodule(name)
        assert isinstance(module, kind), f"{name} is a {type(module).__name__}, not a {kind.__name__}"
        return module


class PartLoss(NamedTuple):
    """A part's loss and figures for a micro-batch."""

    loss: Tensor
    """0-d float32, before weighting."""
    figures: Mapping[str, Tensor] = {}
    """Detached 0-d float32 tensors to record with the loss: signs of health."""


class Sign(NamedTuple):
    """A sign that a run is not sound, from the figures of a step."""

    what: str
    """A clause about the run or its features."""
    shows: bool
    """Whether the sign is present."""
    remedy: str
    """Changes for a restart, with full names of keys."""


class Costs(NamedTuple):
    """A part's costs per volume and step, without the shared pass over all views."""

    student: int = 0
    """Operations of the student's forward pass; a multiplication and addition are two."""
    teacher: int = 0
    """Operations of the teacher's forward pass."""
    unneeded: int = 0
    """Student's operations on inputs without gradient, whose backward pass costs as much as the forward pass
    instead of twice as much: those of a patch embedding."""
    tokens: int = 0
    """Tokens of a separate pass of the encoder."""
    cells: int = 0
    """Σ tokens · channels · blocks of transformers other than the encoder, for activation memory."""
    targets: float = 0.0
    """float32 numbers kept for the rank's complete step, for all its volumes."""
    outputs: float = 0.0
    """float32 numbers kept for a micro-batch."""


class Gallery(NamedTuple):
    """Pictures that a part makes every run.images_every steps."""

    name: str
    """Singular name; the plural names their folder in the run folder."""
    caption: str
    """Caption in the report."""

    @property
    def folder(self) -> str:
        """Folder in the run folder."""
        return f"{self.name}s"


class Part:
    """One stateless term of L = Σ weight · L, configured for a training."""

    name: ClassVar[str]
    """Name in keys (`<name>_weight`, final_weights), metrics and log lines."""
    title: ClassVar[str]
    """Name in the report."""
    learns: ClassVar[bool] = True
    """Whether a run with only this part learns something."""
    relates_views: ClassVar[bool] = False
    """Whether it trains the CLS token on agreement between views of a volume."""
    shares_pass: ClassVar[bool] = True
    """Whether it uses the shared pass over all complete views."""
    has_teacher: ClassVar[bool] = False
    """Whether its targets are the teacher's outputs for the global views."""
    anchored: ClassVar[bool] = False
    """Whether its targets are the anchor's patch tokens of the global views."""
    needs: ClassVar[tuple[Need, ...]] = ("has_cls",)
    """Capabilities that it requires of the encoder."""
    compares_volumes: ClassVar[bool] = False
    """Whether its loss compares the volumes of a micro-batch over all ranks, at least two."""
    taught: ClassVar[tuple[str, ...]] = ()
    """Names of its modules that the teacher has too."""
    target_name: ClassVar[str] = ""
    """Name of its centring's state in checkpoints."""
    curves: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Further panels in the report: their titles and figures."""
    gallery: ClassVar[Gallery | None] = None
    """Gallery of its `picture`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @property
    def target_head(self) -> str:
        """Name of the module whose outputs its centring has seen; empty without a centring."""
        return ""

    @property
    def begins(self) -> float:
        """Share of all steps before which its weight is 0."""
        return 0.0

    @property
    def first_step(self) -> int:
        """The first step at which its weight may be above 0."""
        return round(self.config.run.steps * self.begins)

    def refreshes(self, step: int) -> bool:
        """Whether the anchor becomes the current teacher before that step; for an `anchored` part."""
        return False

    def require(self) -> None:
        """Raise ValueError, one line that names keys, where the configuration does not support the part."""

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """Build its trained modules, by their names in checkpoints; `loss` must use all of them (ZeRO)."""
        return {}

    def draw(self, step: int, samples: NDArray[np.int64]) -> Any:
        """Its random draws for samples (B,) of a step: a NamedTuple of tensors, some maybe None, or None.

        A pure function of the configuration, the step and each sample (`draws.generator`).
        """
        return None

    def hidden(self, network: Student, drawn: Any, kept: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The patches that it masks in the student's shared pass; at most one part may mask patches.

        kept: `ForwardPass.kept`. Returns bool (G, B, n), and the token (width,) that replaces their
        embeddings.
        """
        return None

    def teach(self, forward: ForwardPass) -> Tensor:
        """The teacher's output for the global views, for a part that `has_teacher`."""
        raise NotImplementedError

    def centring(self) -> Centring | None:
        """Build the module that converts the teacher's outputs to targets; None: outputs are the targets."""
        return None

    def loss(self, forward: ForwardPass) -> PartLoss:
        """Loss of this rank's micro-batch; the mean over ranks is the loss of the global micro-batch.

        Statistics over the batch are over all ranks, including gradients. Every module that the part has
        built must be used, maybe with a gradient of 0: under ZeRO 3 all ranks gather it together.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, int]:
        """Numbers of parameters of its `modules`, by name, in closed form."""
        return {}

    def costs(self) -> Costs:
        """Its computation and memory, in closed form."""
        return Costs()

    def signs(self, figures: Mapping[str, float], several: bool) -> list[Sign]:
        """Signs from the figures of a step over all ranks, some of which may be missing.

        several: whether enough volumes were compared that they should differ.
        """
        return []

    def picture(self, student: Student, view: Tensor, drawn: Any) -> dict[str, Tensor]:
        """Pictures of one view (1, C, D, H, W) for its gallery: volumes (C, D, H, W) in [0, 1] by title.

        All ranks call it, without gradients.
        """
        raise NotImplementedError
