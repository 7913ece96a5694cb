"""The study's figures: SVG, from the rows of results.parquet alone."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyarrow as pa
from matplotlib.axes import Axes

from launch.study.config import StudyConfig
from launch.study.findings import Finding
from launch.study.results import MEAN, arm_name
from shards.atomic import atomic_path

Row = dict[str, Any]

COLOURS = {
    "dino": "#0072b2",
    "mae": "#d55e00",
    "joint": "#009e73",
    "joint_gram": "#56b4e9",
    "ibot": "#f0e442",
    "scratch": "#555555",
    "untrained": "#999999",
    "thumbnail": "#cc79a7",
    "mean": "#e69f00",
}
"""The colour-blind-safe palette of Okabe and Ito."""
STYLES = {"finetune": "-", "frozen": "--"}


def plot_all(config: StudyConfig, table: pa.Table, out: Path) -> list[str]:
    """Write the figures; returns their file names."""
    rows = table.to_pylist()
    figures: dict[str, Callable[[], Any]] = {
        "label-efficiency.svg": lambda: _label_efficiency(config, rows),
        "data-scaling.svg": lambda: _data_scaling(config, rows),
        "seen-unseen.svg": lambda: _seen_unseen(config, rows),
    }
    # Text is not converted to paths, and there are no dates or random names: small, deterministic files.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fmct"}):
        for name, draw in figures.items():
            figure = draw()
            with atomic_path(out / name) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
            plt.close(figure)
    return list(figures)


def _label_efficiency(config: StudyConfig, rows: list[Row]) -> Any:
    """AUC by label fraction, one panel per finding, on seen scanners."""
    panels = [MEAN, *(finding.value for finding in Finding)]
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
    largest = max(config.sizes)
    for axis, finding in zip(axes.flat, panels, strict=True):
        for arm, method in _lines(rows):
            chosen = [
                row
                for row in rows
                if (row["arm"], row["method"], row["finding"], row["test"]) == (arm, method, finding, "seen")
                and row["size"] in (0, largest)
            ]
            _line(axis, chosen, "fraction", arm, method)
        axis.set_xscale("log")
        axis.set_title(finding.replace("_", " "), fontsize=10)
        axis.axhline(0.5, color="#cccccc", linewidth=0.8, zorder=0)
    ticks = list(config.fractions)
    axes[0, 0].set_xticks(ticks, [f"{fraction * 100:g}" for fraction in ticks])
    axes[0, 0].minorticks_off()
    figure.supxlabel(f"labels, % of {config.cohort.labelled} heads")
    figure.supylabel("AUC, seen scanners")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    return figure


def _data_scaling(config: StudyConfig, rows: list[Row]) -> Any:
    """AUC by number of pretraining heads, at one label fraction, one panel per test set."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, test in zip(axes, ("seen", "unseen"), strict=True):
        at = [
            row
            for row in rows
            if (row["finding"], row["test"], row["fraction"]) == (MEAN, test, config.compared_fraction)
        ]
        for arm, method in _lines(at):
            chosen = [row for row in at if (row["arm"], row["method"]) == (arm, method)]
            if chosen[0]["size"]:
                _line(axis, chosen, "size", arm, method)
            else:
                style = {"color": COLOURS.get(arm), "linestyle": STYLES[method], "linewidth": 1}
                axis.axhline(chosen[0]["auc"], label=arm_name(arm, method), **style)
        axis.set_xscale("log")
        axis.set_xticks(sorted(config.sizes), [str(size) for size in sorted(config.sizes)])
        axis.minorticks_off()
        axis.set_title(f"{test} scanners", fontsize=10)
        axis.set_xlabel("pretraining heads")
    axes[0].set_ylabel(f"mean AUC at {config.compared_fraction:.0%} of the labels")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=3)
    return figure


def _seen_unseen(config: StudyConfig, rows: list[Row]) -> Any:
    """Mean AUC on seen and unseen scanners, grouped by arm and method."""
    largest = max(config.sizes)
    at = [
        row
        for row in rows
        if row["finding"] == MEAN
        and row["fraction"] == config.compared_fraction
        and row["size"] in (0, largest)
    ]
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    names = list(_lines(at))
    for offset, (test, marker) in enumerate((("seen", "o"), ("unseen", "s"))):
        for place, (arm, method) in enumerate(names):
            for row in at:
                if (row["arm"], row["method"], row["test"]) == (arm, method, test):
                    error = [[row["auc"] - row["low"]], [row["high"] - row["auc"]]]
                    axis.errorbar(
                        place + 0.2 * offset - 0.1,
                        row["auc"],
                        yerr=error,
                        fmt=marker,
                        color=COLOURS.get(arm),
                        markerfacecolor=COLOURS.get(arm) if test == "seen" else "white",
                        label=f"{test} scanners" if place == 0 else None,
                    )
    axis.set_xticks(
        range(len(names)),
        [arm_name(*name).replace(", ", "\n").replace(" on ", "\non ") for name in names],
        fontsize=8,
    )
    axis.axhline(0.5, color="#cccccc", linewidth=0.8, zorder=0)
    axis.set_ylabel(f"mean AUC at {config.compared_fraction:.0%} of the labels")
    axis.legend(fontsize=8)
    return figure


def _lines(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Arm and method of each line, in order of first occurrence."""
    return list(dict.fromkeys((row["arm"], row["method"]) for row in rows))


def _line(axis: Axes, rows: list[Row], along: str, arm: str, method: str) -> None:
    rows = sorted(rows, key=lambda row: row[along])
    places = [row[along] for row in rows]
    axis.plot(
        places,
        [row["auc"] for row in rows],
        color=COLOURS.get(arm),
        linestyle=STYLES[method],
        marker="o",
        markersize=3,
        label=arm_name(arm, method),
    )
    axis.fill_between(
        places,
        [row["low"] for row in rows],
        [row["high"] for row in rows],
        color=COLOURS.get(arm),
        alpha=0.12,
        linewidth=0,
    )
