"""A training run from its folder: what must hold before it starts, and one rank's life."""

import fcntl
import logging
from pathlib import Path
from typing import IO, Any

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.order import Order, Share
from fmct_hpc.train.checkpoint import Manifest, newest
from fmct_hpc.train.signals import EXIT_SAVED, stop_on_signal
from shards import Dataset, DatasetInfo, FmctError
from shards.atomic import write_text

log = logging.getLogger(__name__)

FREE_TO_CHANGE = (
    "data.path",  # the same volumes may move, or be read from the other format: what they hold is compared
    "data.workers",
    "data.prefetch",
    "run.checkpoint_every",
    "run.keep_last",
    "run.log_every",
    "run.images_every",
)
"""Keys that have no influence on what is learned; all others must stay as they were when a run goes on."""


def preflight(config: TrainConfig, run: Path, world_size: int) -> tuple[Path, Manifest] | None:
    """Check all that can be wrong before any process group starts; return the checkpoint to go on from.

    Raises FmctError: the dataset can't be opened, the batch can't be shared out, there are more ranks
    than volumes in a batch, the run folder holds a run of another configuration, number of ranks or
    dataset, or its checkpoints are all damaged.
    """
    dataset = Dataset.open(config.data.path)
    order = Order.of(dataset, config.run.seed, config.run.batch)
    _ = Share(order, 0, world_size, config.engine.accumulate).micro_batch
    _require_same_configuration(config, run)
    found = newest(run)
    if found is None:
        return None
    path, manifest = found
    if (manifest.world_size, manifest.zero_stage) != (world_size, config.engine.zero_stage):
        raise FmctError(
            f"{path}: saved by {manifest.world_size} ranks at engine.zero_stage={manifest.zero_stage}, not "
            f"{world_size} at {config.engine.zero_stage}: resume it as it was saved, or begin another run"
        )
    if manifest.content_digest != dataset.content_digest():
        raise FmctError(
            f"{config.data.path}: not the volumes that {path} was trained on; give data.path those"
        )
    return found


def train(config: TrainConfig, run: Path, until: int | None = None) -> int:
    """One rank: join the others, go on from the newest checkpoint, train, save; return the exit code.

    `until` ends the run at that step instead of run.steps, with a checkpoint. Returns 0 when the steps
    are done, and 75 when a signal came to any rank and all was saved.
    """
    from fmct_hpc.train.process_group import join, on_first_rank

    # After this DeepSpeed is configured for the device, which must come before it is imported.
    place = join(config.engine.device)
    from fmct_hpc.data.loader import Loader
    from fmct_hpc.train.loop import Training, run_steps
    from fmct_hpc.train.records import Records

    lock: list[IO[str]] = []
    on_first_rank(lambda: lock.append(_lock(run)))
    found = on_first_rank(lambda: preflight(config, run, place.world_size))
    dataset = Dataset.open(config.data.path)
    on_first_rank(lambda: _write_configuration(config, run))
    last = min(until or config.run.steps, config.run.steps)
    with stop_on_signal() as stop:
        training = Training(config, place, dataset.content_digest())
        start = 0
        if found:
            path, manifest = found
            training.state.load(path, manifest)
            start = manifest.step
        log.info("%s: steps %d to %d of %d", run, start + 1, last, config.run.steps)
        records = Records(run, start, config.run.log_every) if place.rank == 0 else None
        loader = Loader(
            config.data,
            config.run.seed,
            config.run.batch,
            config.run.batch // (place.world_size * config.engine.accumulate),
            place.rank,
            place.world_size,
            start,
            config.engine.accumulate,
            config.engine.device,
        )
        try:
            done, stopped = run_steps(training, loader, records, run, range(start, last), stop)
        finally:
            loader.close()
            if records:
                records.close()
    on_first_rank(lambda: _export(config, run, dataset.info, done))
    return EXIT_SAVED if stopped else 0


def _export(config: TrainConfig, run: Path, dataset: DatasetInfo, done: int) -> None:
    from fmct_hpc.train.checkpoint import averaged_weights, checkpoint_path
    from fmct_hpc.train.export import export_encoder

    path = checkpoint_path(run, done)
    if path.exists():
        export_encoder(run, averaged_weights(path), config, dataset, done)
        log.info("%s: encoder of step %d", run / "encoder.safetensors", done)


def _lock(run: Path) -> IO[str]:
    """Hold the run folder as long as the returned file is open: two trainings there would ruin each other."""
    run.mkdir(parents=True, exist_ok=True)
    file = (run / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FmctError(f"{run}: another process is training there; wait for it, or end it") from None
    return file


def _write_configuration(config: TrainConfig, run: Path) -> None:
    write_text(run / "config.json", config.model_dump_json(indent=1))


def _require_same_configuration(config: TrainConfig, run: Path) -> None:
    path = run / "config.json"
    if not path.exists():
        return
    before = _flat(TrainConfig.model_validate_json(path.read_bytes()).model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    for key, value in now.items():
        if key not in FREE_TO_CHANGE and before[key] != value:
            raise FmctError(
                f"{path}: this run has {key}={before[key]}, not {value}; go on with its value or name "
                "another run folder"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
