"""A training run in its folder: checks before it starts, and the main function of a rank."""

import logging
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.cache import open_dataset
from fmct_hpc.train import attempts
from fmct_hpc.train.checkpoint import (
    DataFacts,
    InitialWeights,
    Manifest,
    checkpoint_path,
    newest,
    parts,
    set_damaged_aside,
)
from fmct_hpc.train.deepspeed_keys import require_deepspeed_keys
from fmct_hpc.train.earlier_defaults import with_earlier_defaults
from fmct_hpc.train.length import too_many_epochs, with_steps
from fmct_hpc.train.reported import reported_once
from fmct_hpc.train.signals import EXIT_SAVED, stale_job_end, stop_on_signal, time_limit
from fmct_hpc.train.watchdog import Watchdog
from shards import Dataset, FmctError, json_text
from shards.atomic import write_text
from shards.lock import writing
from shards.masks import require_volumes
from shards.newer_version import read_error
from shards.output_paths import require_folder

log = logging.getLogger(__name__)

FREE_TO_CHANGE = (
    "data.path",  # volumes may move or be read from the other format: their content is compared
    "data.workers",
    "data.prefetch",
    "data.cache",
    "data.damaged",  # a run that stopped at a damaged volume may resume without it
    "engine.zero_stage",
    "engine.offload_optimizer",
    "engine.offload_parameters",
    "engine.micro_batch",
    "engine.activation_checkpointing",
    "engine.compile",
    "engine.deepspeed",
    "run.epochs",  # the resulting run.steps must not change
    "run.checkpoint_every",
    "run.failure_gpu_hours",
    "run.keep_last",
    "run.keep_every",
    "run.minutes",
    "run.log_every",
    "run.images_every",
    "run.hang_minutes",
    "health",
    "privacy",
)
"""Keys, or prefixes of keys, that do not affect what is learned (engine keys and the number of ranks: except
for rounding); no other key may change when a run is resumed."""


class ResumePoint(NamedTuple):
    """The state that this start of a run resumes from."""

    checkpoint: tuple[Path, Manifest] | None
    """The run's newest checkpoint; None at its first start."""
    beginning: InitialWeights | None
    """The weights that the run started from; None: random weights."""

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return self.checkpoint[1].step if self.checkpoint else 0


def preflight(config: TrainConfig, run: Path, world_size: int) -> ResumePoint:
    """Check everything that can be checked before a process group starts.

    Raises FmctError as `with_steps` and `require_possible`, and where the run folder is not writable,
    DeepSpeed rejects engine.deepspeed, the checkpoints are of another configuration or dataset, all of them
    are damaged, or there is none and run.start_from does not match.
    """
    config = with_steps(with_earlier_defaults(config, run))
    require_folder(run)
    dataset = require_possible(config, run, world_size)
    require_deepspeed_keys(config)
    checkpoint = newest(run)
    if checkpoint is None:
        return ResumePoint(None, _beginning(config, run))
    require_same(config, dataset, *checkpoint)
    return ResumePoint(checkpoint, checkpoint[1].beginning)


def _beginning(config: TrainConfig, run: Path) -> InitialWeights | None:
    if config.run.start_from is None:
        return None
    from fmct_hpc.train.start import require_start  # imports PyTorch, which a parent of ranks does not need

    return require_start(config, run)


def require_possible(config: TrainConfig, run: Path, world_size: int) -> Dataset:
    """Check everything that needs no checkpoint; return the dataset.

    Raises FmctError where the dataset can't be opened, the ranks do not divide the batch, engine.compile has
    no compiler, health.labels does not match the dataset, or the run folder has a run of another
    configuration.
    """
    dataset = open_dataset(config.data)
    require_volumes(dataset)
    config.accumulation(world_size)
    if config.engine.compile:
        from fmct_hpc.model.execution import require_compiler

        require_compiler(config.engine)
    if config.health.labels:
        from fmct_hpc.probe.online_cohort import probed  # slow import, not needed without labels

        probed(config, dataset)
    recorded = run / "config.json"
    if recorded.exists():
        try:
            document = json_text.parse(recorded.read_bytes())
        except ValueError:
            raise FmctError(f"{recorded}: damaged; restore it, or name another run folder") from None
        _require_same_configuration(config, recorded, document)
    return dataset


def require_same(config: TrainConfig, dataset: Dataset, path: Path, manifest: Manifest) -> None:
    """Raise FmctError unless a run with this configuration and dataset can resume from checkpoint `path`."""
    _require_same_configuration(config, path, manifest.configuration)
    _require_same_data(config, path, manifest.data, DataFacts.of(dataset))


def train(config: TrainConfig, run: Path, until: int | None = None, profile: bool = False) -> int:
    """Run one rank: join the others, resume from the newest checkpoint, train, save; return the exit code.

    until: step at which to end, with a checkpoint, instead of run.steps. profile: whether rank 0 profiles
    some steps (fmct_hpc.train.profiling). Returns 0 after the last step, and 75 when the run was saved and
    stopped because of a signal to any rank or a time limit.
    """
    end = time_limit(config.run.minutes)
    config = config.with_absolute_paths()
    from fmct_hpc.train.process_group import join, on_every_rank, on_first_rank, rank_and_size

    rank, world_size = rank_and_size()
    if rank == 0 and (stale := stale_job_end()):
        log.warning(stale)
    with reported_once(rank == 0):
        config = with_steps(with_earlier_defaults(config, run))
        dataset = require_possible(config, run, world_size)
    # `join` sets DeepSpeed's device, which must precede its import.
    rank_info = join(config.engine.device, config.run.hang_minutes)
    from fmct_hpc.data.loader import Loader
    from fmct_hpc.train.abort import AbortFlag
    from fmct_hpc.train.loop import Training, run_steps
    from fmct_hpc.train.observers import RunObservers
    from fmct_hpc.train.saver import Saver

    with ExitStack() as held, Watchdog(run, rank, 60 * config.run.hang_minutes) as watchdog:
        on_first_rank(lambda: held.enter_context(writing(run, "fmct train")))
        checkpoint, beginning = on_first_rank(lambda: preflight(config, run, world_size))
        if checkpoint:
            on_first_rank(lambda: set_damaged_aside(run, checkpoint[1].step))
        on_first_rank(lambda: _write_configuration(config, run))
        facts, hosts = DataFacts.of(dataset), on_every_rank(socket.gethostname)
        step, device = checkpoint[1].step if checkpoint else 0, rank_info.device_name()
        digest = beginning.digest if beginning else None
        attempt = on_first_rank(lambda: attempts.begin(run, config, facts, hosts, step, device, digest))
        last = min(until or config.run.steps, config.run.steps)
        note = partial(attempts.note_failure, run, attempt.number, rank)
        flag = AbortFlag(attempt.began.isoformat(), rank_info, note)
        with stop_on_signal(end) as stop, flag, ExitStack() as opened:
            try:
                training = Training(config, rank_info, None if checkpoint else beginning)
                if checkpoint:
                    path, manifest = checkpoint
                    training.state.load(parts(path, manifest), manifest.updates)
                    _warn_of_changes(config, manifest, world_size)
                if warning := too_many_epochs(config, len(dataset)):
                    log.warning("%s", warning)
                if step < last:
                    log.info("%s: steps %d to %d of %d", run, step + 1, last, config.run.steps)
                else:
                    log.info("%s: %d of %d steps are done, nothing to do", run, step, config.run.steps)
                longest = on_first_rank(lambda: max(one.save_seconds for one in attempts.attempts(run)))
                saver = Saver(run, config, training.state, facts, longest, beginning)
                flag.last = saver.close
                opened.callback(saver.close)
                accumulation = config.accumulation(world_size)
                loader = Loader(
                    config.data,
                    config.run.seed,
                    config.run.batch,
                    config.run.batch // (world_size * accumulation),
                    rank,
                    world_size,
                    step,
                    accumulation,
                    config.engine.device,
                )
                flag.lost = loader.lost
                opened.callback(loader.close)
                observers = RunObservers(training, run, step, dataset, profile, watchdog)
                opened.callback(observers.close)
                steps = range(step, last)
                done, stopped = run_steps(training, loader, observers.step, saver, steps, stop)
                opened.close()
                reasons = [reason for reason in on_every_rank(lambda: stop.reason) if reason]
                stopped_by = reasons[0] if stopped else None
                on_first_rank(lambda: _export(run, done))
                on_first_rank(lambda: attempts.end(run, attempt, done, stopped_by, saver.seconds))
            except Exception as error:
                flag.fail(error)  # before closing anything, which may be slow
                raise
    return EXIT_SAVED if stopped else 0


def _export(run: Path, done: int) -> None:
    from fmct_hpc.train.export import export_checkpoint

    path = checkpoint_path(run, done)
    if path.exists():
        export_checkpoint(path, run)
        log.info("%s: encoder of step %d", run / "encoder.safetensors", done)


def _write_configuration(config: TrainConfig, run: Path) -> None:
    write_text(run / "config.json", config.model_dump_json(indent=1))


def _require_same_configuration(config: TrainConfig, place: Path, recorded: Any) -> None:
    try:
        before = _flat(TrainConfig.from_record(recorded).with_absolute_paths().model_dump(mode="json"))
    except ValidationError as error:
        reason = (
            "written by another version of fmct-hpc; resume with that version, or name another run folder"
        )
        raise read_error(place, error, reason) from None
    now = _flat(config.with_absolute_paths().model_dump(mode="json"))
    for key in sorted(now.keys() | before.keys()):
        if not key.startswith(FREE_TO_CHANGE) and before.get(key) != now.get(key):
            raise FmctError(
                f"{place}: this run has {key}={before.get(key)}, not {now.get(key)}; resume with its value "
                "or name another run folder"
            )


def _require_same_data(config: TrainConfig, path: Path, before: DataFacts, now: DataFacts) -> None:
    same = ("content_digest", "shards_digest", "spacing_mm")
    if all(getattr(now, fact) == getattr(before, fact) for fact in same):
        return
    difference = "other volumes"
    if now.spacing_mm != before.spacing_mm:
        difference = f"volumes of spacing {now.spacing_mm} mm, not {before.spacing_mm}"
    elif now.preprocess_digest != before.preprocess_digest:
        difference = "volumes of another preprocessing configuration"
    elif now.content_digest == before.content_digest:
        difference = "the same volumes in shards of other sizes, which changes their order"
    raise FmctError(
        f"{config.data.path}: {difference}; set data.path to the dataset that {path} was trained on, or name "
        "another run folder"
    )


def _warn_of_changes(config: TrainConfig, manifest: Manifest, world_size: int) -> None:
    before, now = (manifest.world_size, manifest.zero_stage), (world_size, config.engine.zero_stage)
    if before != now:
        log.warning(
            "%d ranks at ZeRO stage %d resume from %d ranks at stage %d: equal except for rounding",
            *(*now, *before),
        )
    if comparing := [part.title for part in config.parts if part.compares_volumes]:
        earlier = TrainConfig.from_record(manifest.configuration).accumulation(manifest.world_size)
        compared = [config.run.batch // count for count in (config.accumulation(world_size), earlier)]
        if compared[0] != compared[1]:
            message = f"{' and '.join(comparing)}: {compared[0]} volumes are compared at once"
            log.warning("%s, %d before: the loss differs", message, compared[1])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
