"""Whether a run learns, by the features of a step's own batches: an observer that does not affect the step.

The averaged encoder encodes each volume's complete global views with the weights after the step. Figures are
over all ranks, and identical on each.
"""

import logging
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import voxels
from fmct_hpc.data.loader import Batch
from fmct_hpc.data.order import Order, Share
from fmct_hpc.model.tissue import dropped_tissue
from fmct_hpc.objective.ranks import all_reduce, gathered
from fmct_hpc.train.averaged import AveragedEncoder
from fmct_hpc.train.evaluations import evaluates
from fmct_hpc.train.feature_figures import crop_likeness, effective_rank, retrieval, similarities
from fmct_hpc.train.loop import Training
from fmct_hpc.train.process_group import on_first_rank
from shards import Dataset

log = logging.getLogger(__name__)

_COLUMNS = 7
"""Columns after a view's features: its crop's centre and edges, and its volume's number."""


class Learning:
    """Computes the figures of a step; every rank must call it at the same steps."""

    def __init__(self, training: Training, dataset: Dataset) -> None:
        config, rank_info = training.config, training.rank_info
        self._config = config
        self._encode = AveragedEncoder(training)
        self._spacing = dataset.info.spacing_mm
        order = Order.of(dataset, config.run.seed, config.run.batch)
        self._share = Share(
            order, rank_info.rank, rank_info.world_size, config.accumulation(rank_info.world_size)
        )
        if config.health.every and config.data.global_views < 2 and rank_info.rank == 0:
            log.info("retrieval and crop_likeness need data.global_views=2, and are not recorded")

    @torch.no_grad()
    def step(self, done: int, batches: list[Batch]) -> dict[str, float]:
        """The figures after `done` steps, the last with this rank's `batches`; empty at most steps."""
        if not evaluates(self._config, done):
            return {}
        statistics = [self._encoded(done - 1, number, batch) for number, batch in enumerate(batches)]
        gram, sums = (
            torch.stack([getattr(part, name) for part in statistics]).sum(dim=0) for name in ("gram", "sums")
        )
        all_reduce(gram)
        all_reduce(sums)
        mine = torch.cat([part.rows for part in statistics], dim=1)
        everyone = gathered(mine)
        # Rank 0 computes them for all: different devices may round differently, and ranks must agree.
        return on_first_rank(lambda: _figures(ViewStatistics(torch.cat(everyone, dim=1), gram, sums)))

    def _encoded(self, step: int, number: int, batch: Batch) -> "ViewStatistics":
        """Encode micro-batch `number` of step `step`, counted from 0."""
        views = batch.views.whole
        tokens = self._encode(views.flatten(0, 1))
        patches = tokens.patches.flatten(0, 1).double()
        crops = torch.from_numpy(self._crops(step, number, batch.indices)).to(views.device)
        cls = tokens.cls.double().unflatten(0, views.shape[:2])
        model = self._config.model
        dropped = dropped_tissue(views.flatten(0, 1), model.patch_size, model.keep_tokens)
        sums = torch.cat([similarities(*tokens).sum(dim=0), dropped])
        return ViewStatistics(torch.cat([cls, crops], dim=-1), patches.T @ patches, sums)

    def _crops(self, step: int, number: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Global views' crop centres and edges, in edges of the field, and volume numbers: (G, B, 7)."""
        data, order = self._config.data, self._share.order
        spacing = (1.0, 1.0, 1.0) if data.field == "squeezed" else self._spacing
        field = np.array(voxels(data.field_mm, spacing), np.float64)
        epochs, _ = order.at(self._share.positions(step, number))
        crops = np.empty((data.global_views, len(indices), _COLUMNS))
        for place, (epoch, index) in enumerate(zip(epochs.tolist(), indices.tolist(), strict=True)):
            drawn = draw_views(data, spacing, order.seed, epoch, index)[: data.global_views]
            for view, parameters in enumerate(drawn):
                start, edge = np.array(parameters.start), np.array(parameters.edge)
                crops[view, place] = [*((start + edge / 2) / field), *(edge / field), index]
        return crops


class ViewStatistics(NamedTuple):
    """Statistics of the global views of N volumes; float64."""

    rows: Tensor
    """(G, N, width + 7): CLS tokens, crops and volume numbers."""
    gram: Tensor
    """(width, width): Gram matrix of all patch tokens."""
    sums: Tensor
    """(4,): `similarities` and `dropped_tissue`, summed over the G · N views."""


def _figures(statistics: ViewStatistics) -> dict[str, float]:
    """The figures to record, without those that are not finite (views of a single patch)."""
    cls, crops = statistics.rows[..., :-_COLUMNS], statistics.rows[..., -_COLUMNS:-1]
    volumes, flat = statistics.rows[0, :, -1].long(), cls.flatten(0, 1)
    of_patches, of_cls = (statistics.sums[:2] / len(flat)).tolist()
    dropped, tissue = statistics.sums[2:].tolist()
    figures = {
        "cls_rank": effective_rank(flat.T @ flat),
        "patch_rank": effective_rank(statistics.gram),
        "patch_similarity": of_patches,
        "cls_patch_similarity": of_cls,
    }
    if tissue:
        figures["tissue_dropped"] = dropped / tissue
    if len(cls) == 2:
        figures["retrieval"], figures["retrieval_chance"] = retrieval(cls[0], cls[1], volumes)
        figures["crop_likeness"] = crop_likeness(cls[0], cls[1], crops, volumes)
    return {name: value for name, value in figures.items() if math.isfinite(value)}
