"""A training run from its folder: what must hold before it starts, and one rank's life."""

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
from fmct_hpc.train.begun import as_begun
from fmct_hpc.train.checkpoint import (
    Beginning,
    DataFacts,
    Manifest,
    checkpoint_path,
    newest,
    parts,
    set_damaged_aside,
)
from fmct_hpc.train.length import too_many_epochs, with_steps
from fmct_hpc.train.reported import reported_once
from fmct_hpc.train.signals import EXIT_SAVED, stale_job_end, stop_on_signal, time_limit
from fmct_hpc.train.understood import require_understood
from fmct_hpc.train.watchdog import Watchdog
from shards import Dataset, FmctError, json_text
from shards.atomic import write_text
from shards.lock import writing
from shards.masks import require_volumes
from shards.newer import unread
from shards.places import require_folder

log = logging.getLogger(__name__)

FREE_TO_CHANGE = (
    "data.path",  # the same volumes may move, or be read from the other format: what they hold is compared
    "data.workers",
    "data.prefetch",
    "data.cache",
    "data.damaged",  # a run that damage stopped may go on without the damaged
    "engine.zero_stage",
    "engine.offload_optimizer",
    "engine.offload_parameters",
    "engine.micro_batch",
    "engine.activation_checkpointing",
    "engine.compile",
    "engine.deepspeed",
    "run.epochs",  # the steps that they are must stay
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
"""Keys, or beginnings of keys, that have no influence on what is learned (those of the engine and the number
of ranks: none but rounding); all others must not change when a run is resumed."""


class Outset(NamedTuple):
    """Where this start of a run resumes."""

    checkpoint: tuple[Path, Manifest] | None
    """The run's newest; None at its first start."""
    beginning: Beginning | None
    """What the run began with, then or now; None where its weights were drawn."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.checkpoint[1].step if self.checkpoint else 0


def preflight(config: TrainConfig, run: Path, world_size: int) -> Outset:
    """Check all that can be wrong before any process group starts.

    Raises FmctError: what `with_steps` and `require_possible` do, the run folder takes no files, DeepSpeed
    refuses what engine.deepspeed has, the checkpoints are of another configuration or dataset, all of them
    are damaged, or there is none and run.start_from does not fit.
    """
    config = with_steps(as_begun(config, run))
    require_folder(run)
    dataset = require_possible(config, run, world_size)
    require_understood(config)
    found = newest(run)
    if found is None:
        return Outset(None, _beginning(config, run))
    require_same(config, dataset, *found)
    return Outset(found, found[1].beginning)


def _beginning(config: TrainConfig, run: Path) -> Beginning | None:
    if config.run.start_from is None:
        return None
    from fmct_hpc.train.start import require_start  # and PyTorch: a parent of ranks is to begin without

    return require_start(config, run)


def require_possible(config: TrainConfig, run: Path, world_size: int) -> Dataset:
    """Check what needs no checkpoint to be read; return the dataset.

    Raises FmctError: the dataset can't be opened, the batch can't be shared out, there is no compiler for
    engine.compile, health.labels does not fit, or the run folder holds a run of another configuration.
    """
    dataset = open_dataset(config.data)
    require_volumes(dataset)
    config.accumulation(world_size)
    if config.engine.compile:
        from fmct_hpc.model.execution import require_compiler

        require_compiler(config.engine)
    if config.health.labels:
        from fmct_hpc.probe.online_cohort import probed  # which a run without labels must not wait for

        probed(config, dataset)
    recorded = run / "config.json"
    if recorded.exists():
        try:
            document = json_text.parse(recorded.read_bytes())
        except ValueError:
            raise FmctError(f"{recorded}: is damaged; restore it, or name another run folder") from None
        _require_same_configuration(config, recorded, document)
    return dataset


def require_same(config: TrainConfig, dataset: Dataset, path: Path, manifest: Manifest) -> None:
    """Raise FmctError unless a run of this configuration and dataset can go on from the checkpoint `path`."""
    _require_same_configuration(config, path, manifest.configuration)
    _require_same_data(config, path, manifest.data, DataFacts.of(dataset))


def train(config: TrainConfig, run: Path, until: int | None = None, profile: bool = False) -> int:
    """One rank: join the others, go on from the newest checkpoint, train, save; return the exit code.

    `until` ends the run at that step instead of run.steps, with a checkpoint. Returns 0 when the steps
    are done, and 75 when all was saved because a signal came to any rank, or its time is nearly over.
    `profile` has rank 0 record some steps (fmct_hpc.train.profiling).
    """
    end = time_limit(config.run.minutes)
    config = config.with_absolute_paths()
    from fmct_hpc.train.process_group import join, on_first_rank, rank_and_size, together

    rank, world_size = rank_and_size()
    if rank == 0 and (stale := stale_job_end()):
        log.warning(stale)
    with reported_once(rank == 0):
        config = with_steps(as_begun(config, run))
        dataset = require_possible(config, run, world_size)
    # After this DeepSpeed is configured for the device, which must come before it is imported.
    place = join(config.engine.device, config.run.hang_minutes)
    from fmct_hpc.data.loader import Loader
    from fmct_hpc.train.abort import AbortFlag
    from fmct_hpc.train.loop import Training, run_steps
    from fmct_hpc.train.observers import RunObservers
    from fmct_hpc.train.saver import Saver

    with ExitStack() as held, Watchdog(run, rank, 60 * config.run.hang_minutes) as watchdog:
        on_first_rank(lambda: held.enter_context(writing(run, "fmct train")))
        found, beginning = on_first_rank(lambda: preflight(config, run, world_size))
        if found:
            on_first_rank(lambda: set_damaged_aside(run, found[1].step))
        on_first_rank(lambda: _write_configuration(config, run))
        facts, hosts = DataFacts.of(dataset), together(socket.gethostname)
        step, device = found[1].step if found else 0, place.device_name()
        digest = beginning.digest if beginning else None
        attempt = on_first_rank(lambda: attempts.begin(run, config, facts, hosts, step, device, digest))
        last = min(until or config.run.steps, config.run.steps)
        note = partial(attempts.note_failure, run, attempt.number, rank)
        flag = AbortFlag(attempt.began.isoformat(), place, note)
        with stop_on_signal(end) as stop, flag, ExitStack() as opened:
            try:
                training = Training(config, place, None if found else beginning)
                if found:
                    path, manifest = found
                    training.state.load(parts(path, manifest), manifest.updates)
                    _say_what_changed(config, manifest, world_size)
                if warning := too_many_epochs(config, len(dataset)):
                    log.warning("%s", warning)
                if step < last:
                    log.info("%s: steps %d to %d of %d", run, step + 1, last, config.run.steps)
                else:
                    log.info("%s: %d of %d steps are done, none is to do", run, step, config.run.steps)
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
                reasons = [reason for reason in together(lambda: stop.reason) if reason]
                stopped_by = reasons[0] if stopped else None
                on_first_rank(lambda: _export(run, done))
                on_first_rank(lambda: attempts.end(run, attempt, done, stopped_by, saver.seconds))
            except Exception as error:
                flag.fail(error)  # before anything is closed, which may take its time
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
        otherwise = "written by another version of fmct-hpc; go on with that, or name another run folder"
        raise unread(place, error, otherwise) from None
    now = _flat(config.with_absolute_paths().model_dump(mode="json"))
    for key in sorted(now.keys() | before.keys()):
        if not key.startswith(FREE_TO_CHANGE) and before.get(key) != now.get(key):
            raise FmctError(
                f"{place}: this run has {key}={before.get(key)}, not {now.get(key)}; go on with its value or "
                "name another run folder"
            )


def _require_same_data(config: TrainConfig, path: Path, before: DataFacts, now: DataFacts) -> None:
    same = ("content_digest", "shards_digest", "spacing_mm")
    if all(getattr(now, fact) == getattr(before, fact) for fact in same):
        return
    what = "other volumes"
    if now.spacing_mm != before.spacing_mm:
        what = f"volumes of spacing {now.spacing_mm} mm, not {before.spacing_mm}"
    elif now.preprocess_digest != before.preprocess_digest:
        what = "volumes of another preprocessing configuration"
    elif now.content_digest == before.content_digest:
        what = "the volumes in shards of other sizes, which gives them another order"
    raise FmctError(
        f"{config.data.path}: {what}; give data.path the dataset that {path} was trained on, or name another "
        "run folder"
    )


def _say_what_changed(config: TrainConfig, manifest: Manifest, world_size: int) -> None:
    before, now = (manifest.world_size, manifest.zero_stage), (world_size, config.engine.zero_stage)
    if before != now:
        log.warning(
            "%d ranks at ZeRO stage %d go on from %d ranks at stage %d: equal but for rounding",
            *(*now, *before),
        )
    if comparing := [part.title for part in config.parts if part.compares_volumes]:
        earlier = TrainConfig.from_record(manifest.configuration).accumulation(manifest.world_size)
        compared = [config.run.batch // count for count in (config.accumulation(world_size), earlier)]
        if compared[0] != compared[1]:
            what = f"{' and '.join(comparing)}: {compared[0]} volumes are compared at once"
            log.warning("%s, and %d before: the loss is another", what, compared[1])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
