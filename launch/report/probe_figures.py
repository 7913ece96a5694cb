"""Figures of probes: forest plot of AUC, AUC by number of labels, reliability diagrams."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from launch.report.document import Picture
from launch.report.figure_names import time
from launch.report.figures import COLOURS, DIM, svg, themed
from launch.report.results import KindCurve, Result

MAX_INTERVALS = 60
MAX_PANELS = 9
MAX_CURVES = 18
"""Panels of classes, grades, values and horizons, about 20 KB each."""
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":")
"""Encoders also differ by marker and line style, for colour-blind readers."""

_CURVES = {
    "multiclass": ("predicted probability", "share of the class"),
    "ordinal": ("predicted probability", "share above the grade"),
    "regression": ("predicted value", "mean of the true values"),
    "survival": ("predicted probability of the event", "share with the event"),
}
"""The axes of a kind's curves."""


def forest(results: Sequence[Result], level: str, name: str = "areas") -> Picture:
    """A forest plot of every result's AUC, grouped by place; `name` is unique on the page."""
    styles = _styles(results)
    names = _names(results)
    place = list(names).index
    ordered = sorted(results, key=lambda result: place(result.place))[:MAX_INTERVALS][::-1]
    with themed():
        figure = Figure(figsize=(12, 0.9 + 0.28 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        for height, result in enumerate(ordered):
            value, low, high = result.auc
            colour, marker, _ = styles[result.encoder]
            axes.plot([low, high], [height, height], color=colour, linewidth=1.6)
            axes.plot(value, height, marker, color=colour, markersize=6)
        axes.axvline(0.5, color=DIM, linewidth=1, linestyle=":")
        axes.grid(visible=False, axis="y")
        axes.set_yticks(range(len(ordered)), [f"{names[r.place]} · {r.encoder}" for r in ordered])
        lowest = min(0.5, *(result.auc[1] for result in ordered))
        axes.set(xlabel="AUC", xlim=(max(0.0, lowest - 0.02), 1), ylim=(-0.6, len(ordered) - 0.4))
        drawn = svg(figure, name, "AUC with intervals, as in the table above")
    some = f", {MAX_INTERVALS} of {len(results)}" if len(results) > MAX_INTERVALS else ""
    return Picture(drawn, f"Area under the ROC curve with {level} intervals{some}; dotted: chance.")


def efficiency(results: Sequence[Result], name: str = "labels") -> tuple[Picture, ...]:
    """AUC by number of training volumes, one panel per place; none if all have the same number.

    name: unique on the page.
    """
    styles = _styles(results)
    pictures: list[Picture] = []
    for place, text in _names(results).items():
        here = [result for result in results if result.place == place]
        if len({result.n_train for result in here}) < 2 or len(pictures) == MAX_PANELS:
            continue
        title = f"AUC by labelled volumes: {text}"
        with themed():
            figure = Figure(figsize=(4.6, 3.0), layout="constrained")
            axes = figure.subplots()
            for encoder in dict.fromkeys(result.encoder for result in here):
                own = sorted((r for r in here if r.encoder == encoder), key=lambda result: result.n_train)
                counts = [result.n_train for result in own]
                areas, low, high = zip(*(result.auc for result in own), strict=True)
                axes.plot(counts, areas, label=encoder, **_line(styles[encoder]))
                axes.fill_between(counts, low, high, color=styles[encoder][0], alpha=0.15, linewidth=0)
            axes.set(xlabel="training volumes", xscale="log")
            axes.minorticks_off()
            ticks = sorted({result.n_train for result in here})
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            figure.legend(loc="outside upper center", ncols=3)
            pictures.append(Picture(svg(figure, f"{name}{len(pictures)}", title), title))
    return tuple(pictures)


def reliability(results: Sequence[Result]) -> tuple[Picture, ...]:
    """Reliability diagrams of calibrated methods, one panel per place."""
    styles = _styles(results)
    pictures: list[Picture] = []
    for place, name in list(_names(results).items())[:MAX_PANELS]:
        title = f"Reliability: {name}"
        with themed():
            figure = Figure(figsize=(4.6, 3.4), layout="constrained")
            axes = figure.subplots()
            axes.plot([0, 1], [0, 1], color=DIM, linewidth=1, linestyle=":")
            for result in (one for one in results if one.place == place):
                axes.plot(*result.reliability, label=result.encoder, **_line(styles[result.encoder]))
            axes.set(xlabel="predicted probability", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1))
            figure.legend(loc="outside upper center", ncols=3)
            pictures.append(Picture(svg(figure, f"reliability{len(pictures)}", title), title))
    return tuple(pictures)


def reliability_of_kinds(results: Sequence[KindCurve], level: str) -> tuple[Picture, ...]:
    """Reliability curves of non-binary labels, one panel per class, grade, value or horizon."""
    styles = _styles(results)
    pictures: list[Picture] = []
    for place, name in list(_names(results).items())[:MAX_CURVES]:
        here = [one for one in results if one.place == place]
        words = _CURVES[here[0].kind]
        title = f"Reliability: {name}{time(here[0].at)}"
        with themed():
            figure = Figure(figsize=(4.6, 3.4), layout="constrained")
            axes = figure.subplots()
            limits = (0.0, 1.0) if here[0].kind != "regression" else _range(here)
            axes.plot(limits, limits, color=DIM, linewidth=1, linestyle=":")
            for one in here:
                colour = styles[one.encoder][0]
                axes.vlines(one.predicted, one.low, one.high, color=colour, linewidth=1, alpha=0.6)
                axes.plot(one.predicted, one.observed, label=one.encoder, **_line(styles[one.encoder]))
            axes.set(**dict(zip(("xlabel", "ylabel"), words, strict=True)), xlim=limits, ylim=limits)
            figure.legend(loc="outside upper center", ncols=3)
            caption = f"{title}; vertical lines: {level} intervals over patients; dotted: as predicted."
            pictures.append(Picture(svg(figure, f"observed{len(pictures)}", title), caption))
    return tuple(pictures)


def _range(curves: Sequence[KindCurve]) -> tuple[float, float]:
    """The values of all bins and their intervals, with a margin."""
    values = [x for one in curves for part in (one.predicted, one.observed, one.low, one.high) for x in part]
    low, high = min(values), max(values)
    margin = 0.04 * ((high - low) or 1)
    return low - margin, high + margin


def _names(results: Sequence[Result] | Sequence[KindCurve]) -> dict[tuple[str, ...], str]:
    """Places in the order of the results, named by the attributes that differ between them."""
    places = list(dict.fromkeys(result.place for result in results))
    varying = [number for number, values in enumerate(zip(*places, strict=True)) if len(set(values)) > 1]
    return {
        place: " · ".join(place[number] for number in varying or [0] if place[number]) for place in places
    }


def _styles(results: Sequence[Result] | Sequence[KindCurve]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line style of each encoder, the same in every figure."""
    encoders = dict.fromkeys(result.encoder for result in results)
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(encoders)
    }


def _line(style: tuple[str, str, str]) -> Any:
    """A style as arguments of Matplotlib's `plot`."""
    colour, marker, line = style
    return {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
