"""Inputs of the methods: an encoder's features, its tokens, or its weights and the volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.model.execution import usable_device
from fmct_hpc.model.tunable import Tunable
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import Pool, SweepConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.encoders import Encoder, open_encoder
from fmct_hpc.probe.kinds import kind_class
from fmct_hpc.probe.methods.registry import METHODS, MethodName, for_kind
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.samples import Members, StudyCohort
from fmct_hpc.probe.series import over_series
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import require_same_preprocessing
from shards import Dataset, info
from shards.errors import FmctError
from shards.label_kinds import KindSpec


def require_methods(kinds: Mapping[str, KindSpec], methods: Sequence[str]) -> None:
    """Raise FmctError if a method does not support a kind of label."""
    for task, spec in kinds.items():
        kind = kind_class(spec).name
        supported = for_kind(kind)
        for method in methods:
            if method not in supported:
                raise FmctError(
                    f"kinds.{task}: method {method} does not support {kind} labels; expected "
                    f"{', '.join(supported)}"
                )


@dataclass(frozen=True)
class Source:
    """One encoder and the cohort's volumes or studies, as input of the methods."""

    spec: EncoderSpec
    config: SweepConfig
    cohort: Cohort

    @cached_property
    def store(self) -> FeatureStore:
        """Its features; raises FmctError if they are missing, or are of other weights or volumes."""
        path = self.config.features / self.spec.name
        store = FeatureStore.open(path)
        made_of = store.info.spec_digest, store.info.dataset_digest
        if made_of != (self.spec_digest, info.read(self.config.data).digest):
            raise FmctError(f"{path}: from other weights or another dataset; extract the features again")
        return store

    @cached_property
    def spec_digest(self) -> str:
        """The encoder's `EncoderSpec.digest`."""
        return self.spec.digest()

    def step(self, method: MethodName) -> int | None:
        """The training step of a method's input."""
        return self.encoder.step if METHODS[method].reads == "volumes" else self.store.info.step

    @cached_property
    def studies(self) -> tuple[Cohort, Members] | None:
        """The underlying volumes, and the studies' members; None for a cohort of volumes."""
        cohort = self.cohort
        if not isinstance(cohort, StudyCohort) or cohort.members is None:
            return None
        assert cohort.volumes is not None
        return cohort.volumes, cohort.members

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Rows of the store for the cohort's volumes, or for all volumes of its studies."""
        if self.studies is None:
            return self.cohort.places_in(self.store)
        volumes, members = self.studies
        return volumes.places_in(self.store)[members.volumes]

    def fit(
        self, method: MethodName, layer: int | None, pool: Pool | None, problems: Sequence[Problem]
    ) -> list[Fitted]:
        """Fit problems given by rows of the cohort; raises FmctError if the encoder lacks an input."""
        return METHODS[method].fit(FitInput(self, layer, pool), problems)

    def vectors(self, layer: int, pool: Pool) -> NDArray[np.float32]:
        """Features of the cohort's volumes, or pooled over the series of its studies, (N, width)."""
        pooled = self.store.vectors(layer, pool)[self.places]
        if self.studies is None:
            return pooled
        return over_series(self.studies[1].reading(pooled), self.config.series_pool)

    def in_store(self, problem: Problem) -> Problem:
        """The same problem with row numbers of the store, so that tokens need not be copied to memory."""
        labels = np.zeros((len(self.store), *problem.labels.shape[1:]), dtype=problem.labels.dtype)
        labels[self.places] = problem.labels
        rows = {
            name: self.places[getattr(problem, name)]
            for name in ("train", "validation", "scored", "unlabelled")
        }
        return replace(problem, labels=labels, **rows)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder with its weights, on the device; raises FmctError if it cannot be fine-tuned."""
        encoder = open_encoder(self.spec)
        if not isinstance(encoder.module, Tunable):
            raise FmctError(
                f"encoder {self.spec.name}: fine-tuning requires its module to be an "
                "fmct_hpc.model.tunable.Tunable"
            )
        encoder.module.to(usable_device(self.config.device))
        return encoder

    @property
    def tunable(self) -> Tunable:
        """The encoder's module."""
        module = self.encoder.module
        assert isinstance(module, Tunable)
        return module

    def volumes_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Members | None]:
        """The dataset's volumes for rows of the cohort, and, for studies, their members."""
        if self.studies is None:
            return self.cohort.rows[rows], None
        volumes, members = self.studies[0], self.studies[1].of(rows)
        return volumes.rows[members.volumes], members

    def views(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Views of the whole field of volumes of the dataset, float16: 5 MB each at 96³."""
        dataset, encoder = Dataset.open(self.config.data), self.encoder
        require_same_preprocessing(
            dataset, encoder.preprocess_digest, encoder.preprocessing, f"encoder {self.spec.name}"
        )
        views = [encoder.transform(dataset.read(int(row)), dataset.info.spacing_mm).half() for row in rows]
        return torch.stack(views)


@dataclass(frozen=True)
class FitInput:
    """Input of a method for a unit: a source, and the unit's layer and pool."""

    source: Source
    layer: int | None
    """None for methods that read volumes."""
    pool: Pool | None
    """None for methods that read tokens or volumes."""

    @property
    def config(self) -> SweepConfig:
        """The sweep's configuration, with the settings of all methods."""
        return self.source.config

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Pooled features of the cohort's volumes, or pooled over the series of its studies, (N, width)."""
        assert self.layer is not None
        assert self.pool is not None
        return self.source.vectors(self.layer, self.pool)

    @property
    def tokens(self) -> NDArray[np.float16]:
        """Patch tokens of all volumes of the store, (volumes, patches, width), memory-mapped."""
        assert self.layer is not None
        return self.source.store.tokens(self.layer)
