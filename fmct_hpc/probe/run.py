"""`fmct probe`: a sweep that compares a run's encoder with the untrained model, by cross-validation."""

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel

from fmct_hpc.probe.config import PROBE_FOLDS, ProbeConfig, SweepConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.kinds import kind_class
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.methods.registry import MethodName, for_kind
from fmct_hpc.probe.splits import SplitConfig
from fmct_hpc.probe.sweep.ledger import read_plan
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.checkpoint import MANIFEST, checkpoint_path, mark_score
from fmct_hpc.train.export import encoder_info, export_checkpoint
from shards import FmctError
from shards.atomic import write_text
from shards.info import sha256
from shards.lock import writing

log = logging.getLogger(__name__)

HEADS: tuple[MethodName, ...] = ("logistic", "neighbours")
ENCODERS = ("trained", "untrained")


class Row(BaseModel):
    """One row of the result table: an encoder, a classifier and a task."""

    task: str
    head: str
    encoder: str
    volumes: int
    positives: int
    auc: tuple[float, float, float]
    """Value, lower and upper end of the bootstrap interval."""
    gain: tuple[float, float, float]
    """AUC minus that of the untrained encoder, with DeLong's interval; zeros for the untrained one."""
    split: str = "id"
    """Test set: `id`, or `ood` or `ood:NAME` as in the labels or parts."""


class FigureRow(BaseModel):
    """A metric of a label that is not binary."""

    task: str
    kind: str
    head: str
    encoder: str
    split: str
    volumes: int
    figure: str
    at: float | None
    """The point at which it is evaluated, such as a horizon."""
    value: tuple[float, float, float]
    """Value, lower and upper end of the bootstrap interval."""


class ProbeResult(BaseModel):
    """The results of a probe: results.json."""

    rows: list[Row]
    figures: list[FigureRow] = []
    """For labels that are not binary."""
    skipped: dict[str, str]
    """Reason for each task with too few patients of a class, or `TASK (ood)` if only that test set has too
    few."""
    patients: int
    pretrained_patients: int | None
    """Number of them in the pretraining data (without labels); None if that data is not available."""
    confidence: float
    step: int
    encoder_digest: str

    def table(self) -> str:
        """The rows as aligned text."""
        area = f"AUC [{self.confidence:.0%} interval]"
        splits = [*(row.split for row in self.rows), *(own.split for own in self.figures)]
        wide = max([4, *map(len, splits)])
        lines = [f"{'task':<20} {'head':<10} {'encoder':<10} {'test':<{wide}} {'n':>5} {'pos':>5}  {area}"]
        for row in self.rows:
            value, low, high = row.auc
            lines.append(
                f"{row.task:<20} {row.head:<10} {row.encoder:<10} {row.split:<{wide}} {row.volumes:>5} "
                f"{row.positives:>5}  {value:.3f} [{low:.3f}, {high:.3f}]"
            )
        for own in self.figures:
            value, low, high = own.value
            at = "" if own.at is None else f" (t = {own.at:g})"
            lines.append(
                f"{own.task:<20} {own.head:<10} {own.encoder:<10} {own.split:<{wide}} {own.volumes:>5} "
                f"{'':>5}  {value:z.3f} [{low:z.3f}, {high:z.3f}] {own.figure}{at}"
            )
        lines += [f"{task}: not probed, {reason}" for task, reason in self.skipped.items()]
        return "\n".join(lines)


def probe(run: Path, config: ProbeConfig, out: Path, progress: Callable[[int, int], None]) -> ProbeResult:
    """Compare the encoder of a run, or other folder, with the untrained model; write results to `out`.

    run: a run folder, for its final encoder, or one of its checkpoints (run/checkpoints/step-...), whose
    encoder is then written to `out`. Pruning keeps the checkpoint with the best probe result.

    Writes the features, the sweep's tables (docs/formats.md) and, last, results.json. The run folder of
    another user is not written to. Raises FmctError if there is no encoder yet, no volume has a label, `out`
    is not writable or holds the results of another run, dataset or labels, or the preprocessing of the
    volumes differs from that of the encoder's training.
    """
    # Held for the whole probe; the sweep takes and releases the folder's main lock in between.
    with writing(out, "fmct probe", name=".probe.lock"):
        return _probe(run, config, out, progress)


def _probe(run: Path, config: ProbeConfig, out: Path, progress: Callable[[int, int], None]) -> ProbeResult:
    checkpoint = run if (run / MANIFEST).exists() else None
    if not checkpoint:
        encoder_info(run / "encoder.safetensors")
    Sweep(as_sweep(run, config, out), out, run).run(progress)
    if checkpoint:
        export_checkpoint(checkpoint, out)
    exported = (out if checkpoint else run) / "encoder.safetensors"
    step = encoder_info(exported).step
    rows, skipped = _rows(out)
    figures = _figures(out)
    if not rows and not figures:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in skipped.items())
        raise FmctError(f"{config.labels}: no task has enough labelled patients of both classes: {reasons}")
    leakage = read_plan(out).leakage[0]
    result = ProbeResult(
        rows=rows,
        figures=figures,
        skipped=skipped,
        patients=leakage.tested,
        pretrained_patients=leakage.pretrained,
        confidence=config.confidence,
        step=step,
        encoder_digest=sha256(exported),
    )
    write_text(out / "results.json", json.dumps(result.model_dump(), indent=1))
    _mark(checkpoint or checkpoint_path(run, step), rows)
    return result


def _mark(checkpoint: Path, rows: list[Row]) -> None:
    """Record the score of a checkpoint beside it, unless it belongs to another user."""
    best = ("logistic", "trained", "id")
    areas = [row.auc[0] for row in rows if (row.head, row.encoder, row.split) == best]
    if not areas or not checkpoint.exists() or checkpoint.parent.stat().st_uid != os.geteuid():
        return
    try:
        mark_score(checkpoint, sum(areas) / len(areas), "mean AUC of the logistic regression")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        log.info("%s: its folder is not writable; its score is not recorded for pruning", checkpoint)


def as_sweep(run: Path, config: ProbeConfig, out: Path) -> SweepConfig:
    """The sweep that probes one run with a probe's configuration, its features in `out`."""
    given = config.parts is not None or LabelTable.read(config.labels, config.kinds).gives_splits
    of_all = [for_kind(kind_class(spec).name) for spec in config.kinds.values()]
    return SweepConfig(
        data=config.data,
        labels=config.labels,
        parts=config.parts,
        features=out / "features",
        encoders=(
            EncoderSpec(name="trained", weights=run),
            EncoderSpec(name="untrained", weights=run, untrained=config.seed),
        ),
        kinds=config.kinds,
        methods=tuple(method for method in HEADS if all(method in own for own in of_all)),
        seeds=(config.seed,),
        split=SplitConfig(seed=config.seed),
        folds=config.folds or (None if given else PROBE_FOLDS),
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        allow_pretraining_patients=config.allow_pretraining_patients,
        allow_unknown_pretraining=config.allow_unknown_pretraining,
        logistic=config.logistic,
        neighbours=config.neighbours,
        batch=config.batch,
        device=config.device,
        samples=(config.sample,),
        series_pool=config.series_pool,
    )


def _rows(out: Path) -> tuple[list[Row], dict[str, str]]:
    """The sweep's results by task, and the tasks without results."""
    results = pq.read_table(out / "results.parquet").to_pylist()
    gains = {
        (row["task"], row["method"], row["split"]): tuple(
            row[name] for name in ("difference", "difference_low", "difference_high")
        )
        for row in pq.read_table(out / "comparisons.parquet").to_pylist()
    }
    probed = {row["task"] for row in results if not row["reason"]}
    skipped = {
        f"{row['task']} ({row['split']})" if row["task"] in probed else row["task"]: row["reason"]
        for row in results
        if row["reason"]
    }
    rows = [
        Row(
            task=row["task"],
            head=row["method"],
            encoder=row["encoder"],
            volumes=row["n"],
            positives=row["positives"],
            auc=(row["auc"], row["auc_low"], row["auc_high"]),
            gain=(0, 0, 0)
            if row["encoder"] == "untrained"
            else gains[row["task"], row["method"], row["split"]],
            split=row["split"],
        )
        for row in results
        if not row["reason"] and row["figures"] is None
    ]
    tasks = list(dict.fromkeys(row["task"] for row in results))
    splits = sorted({row.split for row in rows}, key=lambda split: (split != "id", split))
    order = (tasks, HEADS, ENCODERS, splits)

    def place(row: Row) -> list[int]:
        named = (row.task, row.head, row.encoder, row.split)
        return [names.index(name) for names, name in zip(order, named, strict=True)]

    return sorted(rows, key=place), skipped


def _figures(out: Path) -> list[FigureRow]:
    """The metrics of labels that are not binary, in the order of the table."""
    return [
        FigureRow(
            task=row["task"],
            kind=row["kind"],
            head=row["method"],
            encoder=row["encoder"],
            split=row["split"],
            volumes=row["n"],
            figure=figure["name"],
            at=figure["at"],
            value=(figure["value"], figure["low"], figure["high"]),
        )
        for row in pq.read_table(out / "results.parquet").to_pylist()
        for figure in row["figures"] or ()
    ]
