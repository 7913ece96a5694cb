"""The report's section on a training run: curves, health, attempts, reconstructions and attention."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray
from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.fields import size_text
from fmct_hpc.model.kinds import KINDS
from fmct_hpc.model.size import parameter_counts
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import MANIFEST, ONLINE, DataFacts, Manifest, best
from fmct_hpc.train.export import EncoderInfo
from fmct_hpc.train.figures import recorded
from fmct_hpc.train.health import Health
from fmct_hpc.train.learning_alarm import LearningAlarm
from fmct_hpc.train.schedules import peak_rate
from launch.report.attempts import attempts_section
from launch.report.document import Block, Facts, Gallery, Picture, Section, Text, cell, facts, table
from launch.report.figures import DIM, picture, svg, themed
from shards.errors import FmctError
from shards.info import sha256
from shards.newer_version import read_error

CURVES = {
    "Loss": ("loss",),
    "Loss terms, unweighted": tuple(part.name for part in PARTS),
    "Gradient norm before clipping": ("gradient_norm",),
    "Learning rate": ("lr",),
    **{title: figures for part in PARTS for title, figures in part.curves.items()},
    "Standard deviation of features (healthy: about 1)": ("feature_deviation",),
    "Retrieval of a volume's other view, and chance": ("retrieval", "retrieval_chance"),
    "Correlation of feature similarity with crop similarity": ("crop_likeness",),
    "Effective rank of tokens": ("cls_rank", "patch_rank"),
    "Mean cosine similarity to a view's patch tokens": ("patch_similarity", "cls_patch_similarity"),
    "Share of tissue in dropped patches": ("tissue_dropped",),
    "Online probe, mean AUC": ("probe_linear", "probe_knn"),
    "Volumes per second": ("volumes_per_second",),
    "Share of step time spent waiting for data": ("data_wait",),
}
"""Panels and their metrics; metrics that a run lacks are left out."""
POINTS = 300
"""Maximum number of points per curve. In longer runs each is a mean of adjacent steps, in a min-max band."""
MAX_PICTURES = 3
"""Maximum number per kind, evenly spaced, including the first and the last."""

ATTENTION = (
    "Attention of the CLS token in the last block, averaged over heads, overlaid on slices of a view; "
    "brightness is scaled from zero to the view's maximum."
)


class Training:
    """A run folder of `fmct train`, finished or not."""

    def __init__(self, run: Path) -> None:
        """Read it; raises FmctError that names a missing or invalid file."""
        self._run = run
        self.config = _parsed(TrainConfig.from_record_json, run / "config.json")
        self.metrics = _metrics(run)
        if not self.metrics:
            raise FmctError(f"{run / 'metrics.jsonl'}: no step yet; report on a run that has started")
        self.attempts = attempts(run)
        ranks = self.attempts[-1].world_size if self.attempts else 1
        health = Health(self.config, ranks)
        self.alarms, self.patience = health.alarms(self.metrics), health.patience
        self.unlearned = LearningAlarm(self.config).lasted(self.metrics)
        self.best = best(run, ONLINE)
        manifests = sorted((run / "checkpoints").glob(f"step-*/{MANIFEST}"))
        self.checkpoint = _parsed(Manifest.model_validate_json, manifests[-1]) if manifests else None
        weights = run / "encoder.safetensors"
        self.exported = weights if weights.exists() and weights.with_suffix(".json").exists() else None
        self.encoder, self.encoder_digest = None, None
        if self.exported:
            self.encoder = _parsed(EncoderInfo.from_record_json, weights.with_suffix(".json"))
            self.encoder_digest = sha256(weights)

    @property
    def steps(self) -> int:
        """Number of completed steps."""
        return int(self.metrics[-1]["step"])

    @property
    def data(self) -> DataFacts | None:
        """Identification of the training volumes; None if neither an attempt nor a checkpoint records it."""
        if self.attempts:
            return self.attempts[-1].data
        return self.checkpoint.data if self.checkpoint else None

    def sections(self) -> list[Section]:
        """The sections on training, reconstructions and attention."""
        return [
            Section(
                "Training",
                (self._recipe(), *self._curves()),
                (self._health(), attempts_section(self.attempts)),
            ),
            *(
                self._pictures(
                    part.gallery.folder, part.gallery.caption, f"the objective has no {part.title}, or no"
                )
                for part in PARTS
                if part.gallery
            ),
            self._pictures("attention", ATTENTION, "no"),
        ]

    def _recipe(self) -> Facts:
        config, objective = self.config, self.config.objective
        model, kind = config.model, KINDS[config.model.kind]
        heads = f", {model.heads} heads" if "heads" in kind.follows else ""
        parts = ", ".join(f"{objective.weights[part.name]:g} · {part.title}" for part in objective.built)
        last = self.metrics[-1]
        views = " and ".join(map(size_text, dict.fromkeys(config.data.view_sizes)))
        return facts(
            "The run",
            {
                "steps": cell(f"{self.steps:,} of {config.run.steps:,}"),
                "global batch": config.run.batch,
                "model": f"{kind.title}, width {model.width}, depth {model.depth}{heads}, "
                f"patches of {size_text(model.patch_size)} in {views} voxels",
                "encoder parameters": parameter_counts(config)["encoder"],
                "loss": parts,
                "peak learning rate": peak_rate(config),
                "precision": config.engine.precision,
                "ranks": self.checkpoint.world_size if self.checkpoint else None,
                "ZeRO stage": config.engine.zero_stage,
                "last loss": last.get("loss"),
                "volumes seen": self.steps * config.run.batch,
            },
        )

    def _curves(self) -> list[Block]:
        steps = np.array([row["step"] for row in self.metrics])
        restarts = [attempt.first_step for attempt in self.attempts[1:]]
        panels = []
        for number, (title, names) in enumerate(CURVES.items()):
            curves = {name: self._column(name) for name in names}
            known = {name: values for name, values in curves.items() if np.isfinite(values).any()}
            if known:
                panels.append(Picture(_panel(f"curve{number}", title, steps, known, restarts), title))
        many = "" if len(steps) <= POINTS else " Lines are means of adjacent steps, bands their range."
        dotted = " Dotted lines mark resumes." if restarts else ""
        return [Text(f"Steps {steps[0]:,} to {steps[-1]:,}.{many}{dotted}"), Gallery(tuple(panels))]

    def _column(self, name: str) -> NDArray[np.float64]:
        """A metric by step, NaN if it was not recorded or not finite."""
        return np.array([row.get(name, math.nan) for row in self.metrics], dtype=np.float64)

    def _health(self) -> Section:
        skipped = [int(row["step"]) for row in self.metrics if row.get("skipped")]
        damaged = int(max(row.get("damaged_volumes", 0) for row in self.metrics))
        blocks: list[Block] = []
        source = "health.patience"
        if self.patience < self.config.health.patience:
            source = f"a quarter of the run, as health.patience is {self.config.health.patience:,}"
        threshold = f"{self.patience:,} steps ({source})"
        if self.alarms:
            rows = (
                (cell(a.sign), cell(a.first), cell(a.last), cell(a.last - a.first + 1)) for a in self.alarms
            )
            lasting = f"Signs of collapse that lasted at least {threshold}"
            blocks.append(table(lasting, ("sign", "from step", "to step", "steps"), rows))
        elif self.steps < self.patience:
            short = f"The run is shorter than the {threshold}"
            blocks.append(Text(f"{short} after which a sign of collapse is reported."))
        else:
            blocks.append(Text(f"No sign of collapse lasted {threshold}."))
        if self.unlearned:
            signs = (
                (cell(s.sign.what), cell(s.first), cell(s.last), cell(s.sign.remedy(self.config)))
                for s in self.unlearned
            )
            heads = ("sign", "from step", "to step", "remedy")
            blocks.append(table("Signs of not learning", heads, signs))
        if self.best:
            path, area = self.best
            step = int(path.name.removeprefix("step-"))
            whose = "its own volumes" if self.config.health.data is None else "volumes of another dataset"
            message = f"By the online probe, on {whose}, the best checkpoint is that of step {step:,}"
            blocks.append(Text(f"{message} (mean AUC {area:.3f}); it is kept."))
        if skipped:
            steps = ", ".join(f"{step:,}" for step in skipped[:10]) + (" …" if len(skipped) > 10 else "")
            were = "1 step was" if len(skipped) == 1 else f"{len(skipped):,} steps were"
            message = f"{were} not finite and skipped: {steps}."
            blocks.append(Text(message, warning=True))
        else:
            blocks.append(Text("All steps were finite."))
        if damaged:
            message = f"Damaged volumes were replaced by others {damaged:,} times."
            blocks.append(Text(message, warning=True))
        return Section("Health", tuple(blocks))

    def _pictures(self, folder: str, caption: str, why_none: str) -> Section:
        title, files = folder.capitalize(), sorted((self._run / folder).glob("step-*.png"))
        if not files:
            return Section(title, (Text(f"Left out: {why_none} step of run.images_every was reached."),))
        chosen = {round(i) for i in np.linspace(0, len(files) - 1, min(MAX_PICTURES, len(files)))}
        pictures = []
        for path in (files[i] for i in sorted(chosen)):
            step = int(path.stem.removeprefix("step-"))
            alt = f"{title.removesuffix('s')} at step {step:,}"
            pictures.append(Picture(picture(path, alt), f"Step {step:,}"))
        return Section(title, (Text(caption), Gallery(tuple(pictures))))


Read = TypeVar("Read")


def _parsed(parse: Callable[[str], Read], path: Path) -> Read:
    try:
        return parse(_read(path))
    except ValidationError as error:
        raise read_error(path, error, "damaged, or written by another version of fmct-hpc") from None


def _metrics(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    try:
        return list(recorded(run))
    except (FileNotFoundError, NotADirectoryError):
        raise FmctError(f"{path}: missing; is {run} a run folder of `fmct train`?") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise FmctError(f"{path}: missing; is {path.parent} a run folder of `fmct train`?") from None


def _panel(
    name: str,
    title: str,
    steps: NDArray[np.int64],
    curves: dict[str, NDArray[np.float64]],
    restarts: list[int],
) -> Markup:
    described = []
    with themed():
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        for label, values in curves.items():
            at, mean, low, high = _condensed(steps, values)
            [line] = axes.plot(at, mean, label=label.replace("_", " "), linewidth=1.4)
            if len(at) < len(steps):
                axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            finite = values[np.isfinite(values)]
            described.append(f"{label.replace('_', ' ')} from {finite[0]:.4g} to {finite[-1]:.4g}")
        for step in restarts:
            axes.axvline(step, color=DIM, linewidth=0.8, linestyle=":")
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
        if len(curves) > 1:
            figure.legend(loc="outside upper center", ncols=len(curves))
        alt = f"{title} over steps {steps[0]} to {steps[-1]}: {', '.join(described)}"
        return svg(figure, name, alt)


def _condensed(steps: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Steps, means, minima and maxima of at most `POINTS` groups of adjacent finite steps."""
    finite = np.isfinite(values)
    at, values = steps[finite].astype(np.float64), values[finite]
    starts = np.unique(np.linspace(0, len(at), min(POINTS, len(at)), endpoint=False).astype(np.int64))
    sizes = np.diff([*starts, len(at)])
    return (
        np.add.reduceat(at, starts) / sizes,
        np.add.reduceat(values, starts) / sizes,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )
