"""Everything that observes a training run: health, records, pictures, profile, watchdog."""

import math
from pathlib import Path

from fmct_hpc.train.figures import recorded
from fmct_hpc.train.health import Health
from fmct_hpc.train.learning import Learning
from fmct_hpc.train.learning_alarm import LearningAlarm, judged
from fmct_hpc.train.loop import Finished, Training
from fmct_hpc.train.online_probe import SCORE, OnlineProbe
from fmct_hpc.train.pictures import Pictures
from fmct_hpc.train.process_group import on_first_rank
from fmct_hpc.train.profiling import Profile
from fmct_hpc.train.records import Records
from fmct_hpc.train.throughput import Throughput
from fmct_hpc.train.watchdog import Watchdog
from shards import Dataset


class RunObservers:
    """The observers of one rank; rank 0 writes the records."""

    def __init__(
        self,
        training: Training,
        run: Path,
        start: int,
        dataset: Dataset,
        profile: bool,
        watchdog: Watchdog,
    ) -> None:
        config, rank_info = training.config, training.rank_info
        first = rank_info.rank == 0
        self._damaged = 0.0
        self._throughput = Throughput(config, rank_info.world_size, rank_info.device)
        self._records = Records(run, start, config.run.steps, config.run.log_every) if first else None
        self._health = Health(config, rank_info.world_size, warns=first)
        self._health.lasting = on_first_rank(lambda: self._health.lasted(recorded(run)))
        self._alarm = LearningAlarm(config, warns=first)
        self._alarm.resume(on_first_rank(lambda: judged(recorded(run))))
        self._learning = Learning(training, dataset)
        self._probe = OnlineProbe(training, dataset)
        self._pictures = Pictures(config, training.engine.module, dataset, self._records)
        self._profile = Profile(run, start) if profile and first else None
        self._watchdog = watchdog
        watchdog.alive()

    def step(self, step: Finished) -> float | None:
        """Observe a step, on every rank; raises FmctError where a health check ends the run.

        Returns the online probe's score of the weights; None where the probe did not run.
        """
        self._watchdog.alive()
        figures = step.outcome.figures | self._throughput.figures(step.seconds, step.waited) | step.saves
        if not step.outcome.non_finite:
            figures |= self._learning.step(step.done, step.batches)
        figures |= self._probe.step(step.done)
        self._watchdog.alive()
        figures["skipped"] = float(bool(step.outcome.non_finite))
        self._damaged += figures["damaged_volumes"]
        figures["damaged_volumes"] = self._damaged  # since this process started
        if self._records:
            self._records.step(step.done, {name: v for name, v in figures.items() if math.isfinite(v)})
        if step.outcome.non_finite:
            self._health.skip(step.done, step.outcome.non_finite)
        else:
            self._health.step(step.done, figures)
        self._alarm.step(step.done, figures)
        self._pictures.step(step.done, step.batches)
        if self._profile:
            self._profile.step(step.done)
        return figures.get(SCORE)

    def close(self) -> None:
        """Close the records, which are then on disk."""
        if self._records:
            self._records.close()
