"""One self-contained HTML page of a whole run: data, training, reconstructions, probes."""

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from fmct_hpc.config import TrainConfig
from fmct_hpc.probe.run import ProbeResult
from shards.atomic import write_text
from shards.errors import FmctError

CURVES = {
    "Loss": ("loss", "dino", "mae"),
    "Learning rate": ("lr",),
    "Gradient norm": ("gradient_norm",),
    "Entropy (nats)": ("teacher_entropy", "student_entropy"),
}
"""Panels of the training figure; a panel without any of its metrics is left out."""


def report(out: Path, data: Path, run: Path, probe: Path) -> None:
    """Write the page to `out` from the output folders of preprocess, train and probe.

    Raises FmctError that names the missing file and the command that makes it.
    """
    metrics = [json.loads(line) for line in _read(run / "metrics.jsonl", "fmct train").splitlines()]
    result = ProbeResult.model_validate_json(_read(probe / "results.json", "fmct probe"))
    config = TrainConfig.model_validate_json(_read(run / "config.json", "fmct train"))
    pictures = sorted((run / "reconstructions").glob("step-*.png"))
    page = _template().render(
        summary=json.loads(_read(data / "summary.json", "fmct preprocess")),
        rejections=_rejections(data / "quarantine.parquet"),
        montage=_embed((data / "qc" / "montage.png").read_bytes()),
        training=_embed(_training_figure(metrics)),
        last=metrics[-1],
        reconstructions=[
            (p.stem.removeprefix("step-").lstrip("0") or "0", _embed(p.read_bytes())) for p in pictures
        ],
        result=result,
        forest=_embed(_forest_figure(result)),
        config=json.dumps(config.model_dump(mode="json", exclude={"data": {"path"}}), indent=1),
    )
    write_text(out, page)


def _read(path: Path, command: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise FmctError(f"{path}: not there; `{command}` writes it when it has finished") from None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launch", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")


def _rejections(quarantine: Path) -> list[tuple[str, int]]:
    reasons = Counter(pq.read_table(quarantine, columns=["reason"])["reason"].to_pylist())
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _training_figure(metrics: list[dict[str, Any]]) -> bytes:
    steps = [row["step"] for row in metrics]
    panels = {
        title: [name for name in names if any(row.get(name) is not None for row in metrics)]
        for title, names in CURVES.items()
    }
    panels = {title: names for title, names in panels.items() if names}
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 2.6 * -(-len(panels) // 2)), layout="constrained")
        axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
        for axis in axes:
            axis.set_visible(False)
        for axis, (title, names) in zip(axes, panels.items(), strict=False):
            axis.set_visible(True)
            for name in names:
                axis.plot(steps, [row.get(name) for row in metrics], label=name, linewidth=1.2)
            axis.set(title=title, xlabel="step")
            axis.legend(frameon=False)
        return _png(figure)


def _forest_figure(result: ProbeResult) -> bytes:
    rows = result.rows[::-1]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 0.6 + 0.24 * len(rows)), layout="constrained")
        axis = figure.subplots()
        for height, row in enumerate(rows):
            value, low, high = row.auc
            colour = "C0" if row.encoder == "trained" else "C7"
            axis.plot([low, high], [height, height], color=colour)
            axis.plot(value, height, "o", color=colour)
        axis.axvline(0.5, color="black", linewidth=0.6, linestyle=":")
        labels = [f"{row.task} · {row.head} · {row.encoder}" for row in rows]
        axis.set_yticks(np.arange(len(rows)), labels)
        axis.set(xlabel=f"AUC with {result.confidence:.0%} interval", xlim=(0, 1))
        return _png(figure)
