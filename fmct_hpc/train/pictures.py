"""Pictures every run.images_every steps: galleries of parts, attention, and the embedding of volumes.

All ranks take part, as under ZeRO stage 3 every use of the network gathers weights; rank 0 records.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.loader import Batch
from fmct_hpc.model.attention import cls_attention
from fmct_hpc.model.backbone import summary
from fmct_hpc.model.kinds import KINDS
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.student import Student
from fmct_hpc.train.records import Records
from shards import Dataset

METADATA = ("kernel_class", "manufacturer")
"""Columns of the shard index recorded with a volume's key; none identifies a patient."""


class Pictures:
    """Makes pictures from the batches of a step."""

    def __init__(
        self, config: TrainConfig, student: Student, dataset: Dataset, records: Records | None
    ) -> None:
        self._config = config
        self._student = student
        self._dataset = dataset
        self._records = records

    @torch.no_grad()
    def step(self, done: int, batches: list[Batch]) -> None:
        """Make the pictures after `done` steps, the last with this rank's `batches`, if they are due."""
        if done % self._config.run.images_every and done != self._config.run.steps:
            return
        view = batches[0].views.whole[0, :1]
        self._galleries(done, view, batches[0])
        if KINDS[self._config.model.kind].attends:
            attention = cls_attention(self._student.encoder, view)[0].mean(dim=0)
            if self._records:
                self._records.attention(done, view[0], attention)
        vectors, rows = self._embed(batches)
        if self._records:
            self._records.embedding(done, vectors, *self._metadata(rows))

    def _galleries(self, done: int, view: Tensor, batch: Batch) -> None:
        """Galleries of the first volume's first view."""
        draws = draw(self._config, done - 1, batch.indices[:1]).to(view.device)
        for part in self._config.parts:
            if part.gallery is not None:
                volumes = part.picture(self._student, view, draws.parts.get(part.name))
                if self._records:
                    self._records.gallery(done, part.gallery, volumes)

    def _embed(self, batches: list[Batch]) -> tuple[Tensor, list[int]]:
        """CLS tokens of the first views of the step's global batch, (N, width), and the volumes' numbers."""
        encoder = self._student.encoder
        vectors = torch.cat(
            [summary(encoder(batch.views.whole[0]), encoder.prefix).float().cpu() for batch in batches]
        )
        rows = [int(index) for batch in batches for index in batch.indices]
        everyone: list[tuple[Tensor, list[int]] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (vectors, rows))
        gathered = [part for part in everyone if part is not None]
        return torch.cat([part[0] for part in gathered]), [row for part in gathered for row in part[1]]

    def _metadata(self, rows: list[int]) -> tuple[list[str], list[list[str]]]:
        """Column names, and their values for each volume."""
        table = self._dataset.index.select(["key", *METADATA])
        # One value at a time: Arrow's `take` imports pandas if installed.
        return table.column_names, [[str(column[row].as_py()) for column in table.columns] for row in rows]
