"""What a run has at step 0: weights drawn from its seed, or those that run.start_from names."""

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
from fmct_hpc.train.checkpoint import Beginning
from fmct_hpc.train.export import EncoderInfo
from fmct_hpc.train.fit import fitted, parts_of
from fmct_hpc.train.source import Source, find_source, read_source

log = logging.getLogger(__name__)


class Initial(NamedTuple):
    """What is trained, before the first step."""

    student: Student
    averages: dict[str, Tensor]
    """By the student's names, of the teacher where it is another than the student."""
    targets: dict[str, Tensor]
    """State of the targets where it is not what they are built with."""


def untrained_encoder(info: EncoderInfo, seed: int) -> Backbone:
    """An encoder of the same architecture with weights drawn from `seed`, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(info.model, len(info.data.windows), info.data.view_size).eval()


def initial(config: TrainConfig, beginning: Beginning | None = None) -> Initial:
    """The same on every rank and at every call.

    beginning: what `require_start` has found; what it lacks is drawn from the seed. Raises FmctError where it
    does not fit the configuration, or is not there any more.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        student = Student(config)
    if beginning is None:
        return Initial(student, {}, {})
    source = fitted(read_source(beginning), config, student)
    student.load_state_dict(source.weights, strict=False)
    _say(beginning, source, config, student)
    return Initial(student, source.averages, source.targets)


def require_start(config: TrainConfig, run: Path) -> Beginning | None:
    """What a run without a checkpoint begins with; None where its weights are drawn.

    Raises FmctError where run.start_from is not there, is damaged, does not fit the configuration, or is not
    what earlier attempts at `run` began with.
    """
    if config.run.start_from is None:
        return None
    earlier = attempts(run)
    beginning = find_source(config.run.start_from, earlier[-1].start_digest if earlier else None)
    with torch.device("meta"):
        student = Student(config)
    fitted(read_source(beginning), config, student)
    return beginning


def _say(beginning: Beginning, source: Source, config: TrainConfig, student: Student) -> None:
    """Which parts come from where."""
    taken = parts_of(source.weights)
    drawn = parts_of(name for name, _ in student.named_parameters()) - taken
    log.info("beginning with the %s of %s", " and ".join(sorted(taken)), beginning.place)
    if drawn:
        log.info("%s: not there, so drawn from the seed", " and ".join(sorted(drawn)))
    if config.objective.distils and (lacking := set(Targets(config).state_dict()) - set(source.targets)):
        log.info("targets' %s: not there, so as at any start", " and ".join(sorted(lacking)))
