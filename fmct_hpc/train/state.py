"""What a checkpoint carries of a training run, and where it lies on this rank.

Of each parameter its float32 weight, AdamW's two moments and the teacher's average; the anchor's, where
there is one; the state of the targets; and how many updates the optimizer has done. Nothing else: order,
views, masks and schedules are functions of the step. The entries are whole tensors by name, cut as this rank
holds them, so a run may go on with another number of ranks or another ZeRO stage; one that stays as it was
gets its very bits back.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fmct_hpc.train.partition import Master, masters, own_piece, settle
from fmct_hpc.train.pieces import Piece, PieceFiles, whole_piece

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

WEIGHT, AVERAGE, ANCHOR, TARGETS = "weight", "average", "anchor", "targets"
"""What an entry is; its name is this, a slash, and the name of the parameter or buffer."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class State:
    """The parts of a training run that a checkpoint carries."""

    def __init__(
        self,
        engine: "DeepSpeedEngine",
        averaged: Mapping[str, nn.Parameter],
        targets: nn.Module | None,
        anchor: Mapping[str, nn.Parameter],
    ) -> None:
        """averaged, anchor: parameters of the teacher and the anchor by the student's names, if there are."""
        self._engine = engine
        self._frozen = {AVERAGE: averaged, ANCHOR: anchor}
        self._targets = targets
        # Under ZeRO the engine's optimizer wraps torch's, which keeps the moments.
        self._optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)

    def pieces(self) -> Iterator[Piece]:
        """All that this rank holds, in place."""
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
        """How often the optimizer has updated the weights, which AdamW's bias correction needs.

        One number for all: DeepSpeed gives every parameter a gradient at each update, of 0 perhaps.
        """
        return max(int(self._moments(master)["step"]) for master in masters(self._engine))

    def load(self, paths: list[Path], updates: int) -> None:
        """Take everything back from the files of all ranks; every rank must call it.

        Raises FmctError, that names the entry, where the model is not the one that was saved.
        """
        files = PieceFiles(paths)
        for piece in self.pieces():
            files.fill(piece)
        for master in masters(self._engine):
            self._moments(master)["step"].fill_(updates)
        settle(self._engine)

    def _moments(self, master: Master) -> dict[str, Tensor]:
        """AdamW's state of a tensor, made as torch makes it at the first update where there is none yet."""
        state: dict[str, Tensor] = self._optimizer.state[master.tensor]
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({moment: torch.zeros_like(master.tensor) for moment in MOMENTS})
        return state


def averaged_weights(paths: list[Path], part: str = "") -> dict[str, Tensor]:
    """Whole averaged weights by name, the student's own where there was no teacher, from all ranks' files.

    part: what the names begin with, "encoder." for instance.
    """
    files = PieceFiles(paths)
    return whole_tensors(files, AVERAGE if any(files.keys(f"{AVERAGE}/")) else WEIGHT, part)


def whole_tensors(files: PieceFiles, kind: str, part: str = "") -> dict[str, Tensor]:
    """Whole entries of a kind (WEIGHT, AVERAGE, TARGETS) by name; part: what the names begin with."""
    return {key.removeprefix(f"{kind}/"): files.whole(key) for key in files.keys(f"{kind}/{part}")}
