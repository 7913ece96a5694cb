"""The online probe: how well features of a run's averaged encoder predict labels during training.

The encoder gets no gradient from it. The volumes' complete fields, without augmentation, are read once, kept
in memory and divided among the ranks.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from fmct_hpc.objective.ranks import gathered
from fmct_hpc.probe.online import online_areas
from fmct_hpc.probe.online_cohort import OnlineCohort, probed
from fmct_hpc.train.averaged import AveragedEncoder
from fmct_hpc.train.evaluations import evaluates
from fmct_hpc.train.export import EncoderInfo
from fmct_hpc.train.loop import Training
from fmct_hpc.train.process_group import fail_together, on_every_rank, on_first_rank
from shards import Dataset
from shards.errors import FmctError

log = logging.getLogger(__name__)

SCORE = "probe_linear"
"""The score by which the best checkpoint is kept; `fmct probe` also uses logistic regression."""
READERS = 2
"""Threads per rank that read volumes at the start."""


class OnlineProbe:
    """Probes at evaluations and at regular checkpoints; every rank must call it at the same steps."""

    def __init__(self, training: Training, dataset: Dataset) -> None:
        """Read the volumes; raises FmctError on rank 0 where `probed` or `Dataset.read` raises on any rank.

        A damaged volume is an error for any data.damaged: probes without it would not be comparable.
        """
        self._config, rank_info = training.config, training.rank_info
        self._encode = AveragedEncoder(training)
        self._rank, self._ranks = rank_info.rank, rank_info.world_size
        self._batch = self._config.run.batch // self._config.accumulation(self._ranks) // self._ranks
        self._cohort: OnlineCohort | None = None
        self._views: Tensor | None = None
        try:
            on_every_rank(lambda: self._read(dataset))
        except FmctError as error:
            fail_together(error)

    def _read(self, dataset: Dataset) -> None:
        selected = probed(self._config, dataset)
        if not selected:
            return
        data, self._cohort = selected
        info = EncoderInfo(
            step=0,
            model=self._config.model,
            data=self._config.data,
            spacing_mm=dataset.info.spacing_mm,
            code_version="",
        )
        # Under ZeRO stage 3 all ranks must encode equally often: some volumes are encoded by two ranks.
        count = len(self._cohort.rows)
        mine = [
            self._cohort.rows[n % count] for n in range(self._rank, self._per_rank * self._ranks, self._ranks)
        ]
        with ThreadPoolExecutor(READERS) as readers:
            views = readers.map(lambda row: info.view(data.read(int(row)), data.info.spacing_mm), mine)
            self._views = torch.cat(list(views))
        if self._rank == 0:
            patients = set(self._cohort.patients.tolist())
            seen = patients & set(dataset.index["patient_key"].to_pylist())
            log.info(
                "online probe of %s: %d volumes of %d patients; pretraining sees %d of them (without labels)",
                *(", ".join(self._cohort.tasks), count, len(patients), len(seen)),
            )

    @property
    def _per_rank(self) -> int:
        """Number of volumes that each rank encodes."""
        assert self._cohort is not None
        return -(-len(self._cohort.rows) // self._ranks)

    @torch.no_grad()
    def step(self, done: int) -> dict[str, float]:
        """Areas under ROC curves after `done` steps, by metric (`online_areas`); empty at most steps."""
        cohort, views = self._cohort, self._views
        regular = done % self._config.run.checkpoint_every == 0
        if cohort is None or views is None or not (regular or evaluates(self._config, done)):
            return {}
        pooled = []
        for part in views.split(self._batch):
            tokens = self._encode(part)
            pooled.append(torch.cat([tokens.cls, tokens.patches.mean(dim=1)], dim=1))
        everyone = torch.stack(gathered(torch.cat(pooled)), dim=1)
        features = everyone.flatten(0, 1)[: len(cohort.rows)].cpu().numpy()
        return on_first_rank(lambda: online_areas(features, cohort))
