"""The state of a training run in checkpoints, and this rank's slices of it.

For each parameter: the float32 weight, AdamW's two moments, the teacher's average and, with Gram anchoring,
the anchor's weight; further the state of the targets and the number of updates. Nothing else: order, views,
masks and schedules are functions of the step. Entries are named tensors, sliced as on this rank, so a run may
resume with another number of ranks or ZeRO stage; with the same ones it is restored bit for bit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fmct_hpc.train.partition import Master, copy_masters_to_weights, masters, own_piece
from fmct_hpc.train.pieces import Piece, PieceFiles, whole_piece

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

WEIGHT, AVERAGE, ANCHOR, TARGETS = "weight", "average", "anchor", "targets"
"""Kinds of entries; an entry's name is its kind, a slash, and the name of the parameter or buffer."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class State:
    """The state of a training run that checkpoints hold."""

    def __init__(
        self,
        engine: "DeepSpeedEngine",
        averaged: Mapping[str, nn.Parameter],
        targets: nn.Module | None,
        anchor: Mapping[str, nn.Parameter],
    ) -> None:
        """averaged, anchor: parameters of teacher and anchor by the student's names; may be empty."""
        self._engine = engine
        self._frozen = {AVERAGE: averaged, ANCHOR: anchor}
        self._targets = targets
        # Under ZeRO the engine's optimizer wraps torch's, which keeps the moments.
        self._optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)

    def pieces(self) -> Iterator[Piece]:
        """All slices of this rank, as views of its memory."""
        for master in masters(self._engine):
            yield master.piece(WEIGHT, master.tensor)
            for moment in MOMENTS:
                yield master.piece(moment, self._moments(master)[moment])
        for kind, parameters in self._frozen.items():
            for name, parameter in parameters.items():
                yield own_piece(f"{kind}/{name}", parameter)
        if self._targets is not None:
            for name, tensor in self._targets.state_dict().items():
                yield whole_piece(f"{TARGETS}/{name}", tensor)

    @property
    def updates(self) -> int:
        """Number of updates by the optimizer, for AdamW's bias correction.

        Equal for all parameters: DeepSpeed gives each one a gradient, maybe 0, at every update.
        """
        return max(int(self._moments(master)["step"]) for master in masters(self._engine))

    def load(self, paths: list[Path], updates: int) -> None:
        """Restore the state from the files of all ranks; every rank must call it.

        Raises FmctError that names the entry where the model differs from the saved one.
        """
        files = PieceFiles(paths)
        for piece in self.pieces():
            files.fill(piece)
        for master in masters(self._engine):
            self._moments(master)["step"].fill_(updates)
        copy_masters_to_weights(self._engine)

    def _moments(self, master: Master) -> dict[str, Tensor]:
        """AdamW's state of a tensor, initialised as by torch at the first update if it is empty."""
        state: dict[str, Tensor] = self._optimizer.state[master.tensor]
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({moment: torch.zeros_like(master.tensor) for moment in MOMENTS})
        return state


def averaged_weights(paths: list[Path], part: str = "") -> dict[str, Tensor]:
    """Whole averaged weights by name from all ranks' files; the student's weights without a teacher.

    part: prefix of the names, for example "encoder.".
    """
    files = PieceFiles(paths)
    return whole_tensors(files, AVERAGE if any(files.keys(f"{AVERAGE}/")) else WEIGHT, part)


def whole_tensors(files: PieceFiles, kind: str, part: str = "") -> dict[str, Tensor]:
    """Whole entries of a kind (WEIGHT, AVERAGE, TARGETS) by name; part: prefix of the names."""
    return {key.removeprefix(f"{kind}/"): files.whole(key) for key in files.keys(f"{kind}/{part}")}
