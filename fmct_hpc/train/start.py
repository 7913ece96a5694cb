"""Initial weights of a run: random from its seed, or those of run.start_from."""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.kinds import build_encoder
from fmct_hpc.objective.student import Student
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import InitialWeights
from fmct_hpc.train.export import EncoderInfo
from fmct_hpc.train.matching_weights import matching_weights, parts_of
from fmct_hpc.train.source import Source, find_source, read_source

log = logging.getLogger(__name__)


class Initial(NamedTuple):
    """The state before the first step."""

    student: Student
    averages: dict[str, Tensor]
    """The teacher's weights, by the student's names, where they differ from the student's."""
    targets: dict[str, Tensor]
    """State of the targets where it differs from the initial one."""


def untrained_encoder(info: EncoderInfo, seed: int) -> Backbone:
    """An encoder of the same architecture with random weights from `seed`, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(info.model, len(info.data.windows), info.data.view_size).eval()


def initial(config: TrainConfig, beginning: InitialWeights | None = None) -> Initial:
    """The initial state, identical on every rank and in every call.

    beginning: source from `require_start`; parts that it lacks are random, from the seed. Raises FmctError
    where it does not match the configuration, or is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        student = Student(config)
    if beginning is None:
        return Initial(student, {}, {})
    source = matching_weights(read_source(beginning), config, student)
    student.load_state_dict(source.weights, strict=False)
    _log_source(beginning, source, config, student)
    return Initial(student, source.averages, source.targets)


def require_start(config: TrainConfig, run: Path) -> InitialWeights | None:
    """The source of the weights of a run without a checkpoint; None: random weights.

    Raises FmctError where run.start_from is missing, is damaged, does not match the configuration, or differs
    from that of earlier attempts at `run`.
    """
    if config.run.start_from is None:
        return None
    earlier = attempts(run)
    beginning = find_source(config.run.start_from, earlier[-1].start_digest if earlier else None)
    with torch.device("meta"):
        student = Student(config)
    matching_weights(read_source(beginning), config, student)
    return beginning


def _log_source(beginning: InitialWeights, source: Source, config: TrainConfig, student: Student) -> None:
    """Log the source of each part."""
    loaded = parts_of(source.weights)
    drawn = parts_of(name for name, _ in student.named_parameters()) - loaded
    log.info("starting from the %s of %s", " and ".join(sorted(loaded)), beginning.place)
    if drawn:
        log.info("%s: not in the source, so random from the seed", " and ".join(sorted(drawn)))
    if config.objective.distils and (missing := set(Targets(config).state_dict()) - set(source.targets)):
        log.info("targets' %s: not in the source, so initial", " and ".join(sorted(missing)))
