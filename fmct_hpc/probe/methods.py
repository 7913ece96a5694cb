"""The methods by name, each on what it reads of an encoder: its features, its tokens, or its weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.model.execution import usable_device
from fmct_hpc.model.tunable import Tunable
from fmct_hpc.probe.attentive import StudyTokens, attentive
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import MethodName, Pool, SweepConfig
from fmct_hpc.probe.encoders import Encoder, EncoderSpec, open_encoder
from fmct_hpc.probe.kinds import BINARY, kind_class
from fmct_hpc.probe.linear import linear
from fmct_hpc.probe.logistic import logistic
from fmct_hpc.probe.neighbours import neighbours
from fmct_hpc.probe.penalised import penalised
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.samples import Members, StudyCohort
from fmct_hpc.probe.series import over_series
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import require_same_preprocessing
from shards import Dataset, info
from shards.errors import FmctError
from shards.label_kinds import KindSpec

ON_TOKENS: tuple[MethodName, ...] = ("attentive",)
ON_VOLUMES: tuple[MethodName, ...] = ("finetune",)
DETERMINISTIC: tuple[MethodName, ...] = ("logistic", "neighbours")
"""Methods that draw nothing: a seed matters to them only where it draws the patients."""


def require_methods(kinds: Mapping[str, KindSpec], methods: Sequence[str]) -> None:
    """Raise FmctError where a method has no counterpart for a kind of label."""
    for task, spec in kinds.items():
        kind = kind_class(spec)
        for method in methods:
            if method not in kind.methods:
                raise FmctError(
                    f"kinds.{task}: method {method} has nothing for {kind.name} labels; methods may be "
                    f"{', '.join(kind.methods)}"
                )


def _apart(
    problems: Sequence[Problem],
    binary: Callable[[list[Problem]], list[Fitted]],
    others: Callable[[list[Problem]], list[Fitted]],
) -> list[Fitted]:
    """Fit binary problems together, which one solution does at once, and the others, in the given order."""
    own, rest = ([p for p in problems if (p.kind == BINARY) == is_binary] for is_binary in (True, False))
    fitted = {True: iter(binary(own) if own else []), False: iter(others(rest) if rest else [])}
    return [next(fitted[problem.kind == BINARY]) for problem in problems]


@dataclass(frozen=True)
class Source:
    """One encoder and the cohort's volumes, or studies, as the methods read them."""

    spec: EncoderSpec
    config: SweepConfig
    cohort: Cohort

    @cached_property
    def store(self) -> FeatureStore:
        """Its features; FmctError where they are not extracted yet, or are of other weights or volumes."""
        path = self.config.features / self.spec.name
        store = FeatureStore.open(path)
        made_of = store.info.spec_digest, store.info.dataset_digest
        if made_of != (self.spec_digest, info.read(self.config.data).digest):
            raise FmctError(f"{path}: of other weights or another dataset; extract the features again")
        return store

    @cached_property
    def spec_digest(self) -> str:
        """What the encoder is, by `EncoderSpec.digest`."""
        return self.spec.digest()

    def step(self, method: MethodName) -> int | None:
        """The training step of what a method reads."""
        return self._encoder.step if method in ON_VOLUMES else self.store.info.step

    @cached_property
    def _studies(self) -> tuple[Cohort, Members] | None:
        """The volumes, and which of them the cohort's studies are made of; None of a cohort of volumes."""
        cohort = self.cohort
        if not isinstance(cohort, StudyCohort) or cohort.members is None:
            return None
        assert cohort.volumes is not None
        return cohort.volumes, cohort.members

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Rows of the store, of the cohort's volumes or of all volumes of its studies."""
        if self._studies is None:
            return self.cohort.places_in(self.store)
        volumes, members = self._studies
        return volumes.places_in(self.store)[members.volumes]

    def fit(
        self, method: MethodName, layer: int | None, pool: Pool | None, problems: Sequence[Problem]
    ) -> list[Fitted]:
        """Fit problems whose rows are the cohort's. Raises FmctError for what the encoder doesn't have."""
        config = self.config
        if method == "finetune":
            return [self._finetune(problem) for problem in problems]
        assert layer is not None
        if method == "attentive":
            tokens = self.store.tokens(layer)
            if self._studies is not None:
                of_studies = StudyTokens(tokens, self._places, self._studies[1])
                return attentive(of_studies, problems, config.attentive)
            return attentive(tokens, [self._in_store(problem) for problem in problems], config.attentive)
        assert pool is not None
        features = self.vectors(layer, pool)
        if method == "logistic":
            return _apart(
                problems,
                lambda part: logistic(features, part, config.logistic),
                lambda part: penalised(features, part, config.logistic),
            )
        if method == "linear":
            return linear(features, problems, config.linear)
        return neighbours(features, problems, config.neighbours)

    def vectors(self, layer: int, pool: Pool) -> NDArray[np.float32]:
        """Features of the cohort's volumes, or over the series of its studies, (N, width)."""
        found = self.store.vectors(layer, pool)[self._places]
        if self._studies is None:
            return found
        return over_series(self._studies[1].reading(found), self.config.series_pool)

    def _in_store(self, problem: Problem) -> Problem:
        """The same problem with the store's numbers of volumes: its tokens stay in their file."""
        labels = np.zeros((len(self.store), *problem.labels.shape[1:]), dtype=problem.labels.dtype)
        labels[self._places] = problem.labels
        rows = {
            name: self._places[getattr(problem, name)]
            for name in ("train", "validation", "scored", "unlabelled")
        }
        return replace(problem, labels=labels, **rows)

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = open_encoder(self.spec)
        if not isinstance(encoder.module, Tunable):
            raise FmctError(
                f"encoder {self.spec.name}: its module is no fmct_hpc.model.tunable.Tunable, as "
                "fine-tuning needs"
            )
        encoder.module.to(usable_device(self.config.device))
        return encoder

    def _finetune(self, problem: Problem) -> Fitted:
        return self.finetuned(problem)[0]

    def finetuned(self, problem: Problem) -> tuple[Fitted, Tunable]:
        """Fine-tune for one problem; the encoder that comes of it, whose pooled tokens the head reads."""
        from fmct_hpc.probe.finetune import Rows, finetune
        from fmct_hpc.probe.goal import goal_of

        used, places = np.unique(
            np.concatenate([problem.train, problem.validation, problem.scored]), return_inverse=True
        )
        train, validation, scored = np.split(places, np.cumsum([len(problem.train), len(problem.validation)]))
        config = self.config.finetune.model_copy(update={"seed": problem.seed})
        wanted = np.concatenate([validation, scored])
        goal = goal_of(problem.kind, problem.labels[used], train, config)
        module = self._encoder.module
        assert isinstance(module, Tunable)
        rows, members = self.cohort.rows[used], None
        if self._studies is not None:
            volumes, members = self._studies[0], self._studies[1].of(used)
            rows = volumes.rows[members.volumes]
        which = Rows(train, validation, wanted)
        found = finetune(
            module, self._views(rows), goal, which, config, members, f"{self.spec.name}: fine-tuning"
        )
        scores = goal.predictions(found.scores)
        chosen = {"step": float(found.step)}
        head = found.model.as_head(goal)
        fitted = Fitted(scores[: len(validation)], scores[len(validation) :], chosen, head)
        return fitted, found.model.encoder

    def _views(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The whole field of some volumes of the dataset in float16: 5 MB each at 96³."""
        dataset, encoder = Dataset.open(self.config.data), self._encoder
        require_same_preprocessing(
            dataset, encoder.preprocess_digest, encoder.preprocessing, f"encoder {self.spec.name}"
        )
        views = [encoder.transform(dataset.read(int(row)), dataset.info.spacing_mm).half() for row in rows]
        return torch.stack(views)
