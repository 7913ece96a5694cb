"""The report's part about what features are worth: probes with intervals, beside the untrained model."""

from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import ValidationError

from fmct_hpc.probe.run import ProbeResult, Row
from launch.report.document import Bullets, Cell, Gallery, Picture, Section, Text, cell, interval, table
from launch.report.figures import COLOURS, DIM, svg, themed
from shards.errors import FmctError


class Probes:
    """What `fmct probe` left in its output folder."""

    def __init__(self, folder: Path) -> None:
        """Read it; raises FmctError where it is not there or of another version."""
        path = folder / "results.json"
        try:
            self.result = ProbeResult.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise FmctError(f"{path}: not there; `fmct probe` writes it when it has finished") from None
        except ValidationError:
            raise FmctError(f"{path}: written by another version; run `fmct probe` again") from None

    def section(self) -> Section:
        """The table, and its intervals as a figure."""
        result = self.result
        level = f"{result.confidence:.0%}"
        overlap = (
            "The pretraining data was not at hand, so its overlap with these patients is not known."
            if result.pretrained_patients is None
            else f"{result.pretrained_patients:,} of the {result.patients:,} patients were in the "
            "pretraining data, without labels."
        )
        how = (
            f"Frozen features of step {result.step:,}; patient-level cross-validation over "
            f"{result.patients:,} patients; percentile bootstrap over patients, {level} intervals. "
            "The gain is the AUC above the same model with its initial weights, over the same resamples. "
            f"{overlap}"
        )
        columns = ("task", "head", "encoder", "volumes", "positive", f"AUC [{level}]", f"gain [{level}]")
        skipped = tuple(f"{task}: not probed, {why}." for task, why in result.skipped.items())
        caption = f"Areas under the ROC curve with {level} intervals; the dotted line is chance."
        return Section(
            "Evaluation",
            (
                Text(how),
                table("Probes", columns, (self._row(row) for row in result.rows)),
                *([Bullets(skipped)] if skipped else []),
                Gallery((Picture(self._forest(), caption),), wide=True),
            ),
        )

    def _row(self, row: Row) -> tuple[Cell, ...]:
        gain = interval(*row.gain, "+.3f") if row.encoder == "trained" else cell(None)
        names = (row.task, row.head, row.encoder)
        return (*map(cell, names), cell(row.volumes), cell(row.positives), interval(*row.auc), gain)

    def headline(self) -> dict[str, Cell]:
        """The mean AUC of the linear probe, trained and untrained."""
        areas: dict[str, list[float]] = {}
        for row in self.result.rows:
            if row.head == "logistic":
                areas.setdefault(row.encoder, []).append(row.auc[0])
        means = {encoder: sum(values) / len(values) for encoder, values in areas.items()}
        return {f"mean AUC of linear probes, {encoder}": cell(v, ".3f") for encoder, v in means.items()}

    def limits(self) -> list[str]:
        """What these results cannot show, in sentences."""
        better, worse, open_ = self._gains()
        count = len(better) + len(worse) + len(open_)
        said = [
            f"Of {count} probes the trained encoder is better than the untrained one in {len(better)} "
            f"({_names(better)}), worse in {len(worse)} ({_names(worse)}), and not told from it in "
            f"{len(open_)}; intervals are of {self.result.confidence:.0%} each, uncorrected for their number."
        ]
        if self.result.pretrained_patients:
            said.append("Patients of the probes were seen, without labels, in pretraining.")
        return said

    def _gains(self) -> tuple[list[Row], list[Row], list[Row]]:
        """Of the trained encoder's rows: gain above 0 with its whole interval, below 0, and neither."""
        rows = [row for row in self.result.rows if row.encoder == "trained"]
        better = [row for row in rows if row.gain[1] > 0]
        worse = [row for row in rows if row.gain[2] < 0]
        return better, worse, [row for row in rows if row not in better and row not in worse]

    def _forest(self) -> Markup:
        rows = self.result.rows[::-1]
        with themed():
            figure = Figure(figsize=(12, 0.7 + 0.28 * len(rows)), layout="constrained")
            axes = figure.subplots()
            for height, row in enumerate(rows):
                value, low, high = row.auc
                trained = row.encoder == "trained"
                colour = COLOURS[0] if trained else DIM
                axes.plot([low, high], [height, height], color=colour, linewidth=1.6)
                axes.plot(value, height, "o" if trained else "s", color=colour, markersize=5)
            axes.axvline(0.5, color=DIM, linewidth=1, linestyle=":")
            axes.grid(visible=False, axis="y")
            axes.set_yticks(range(len(rows)), [f"{r.task} · {r.head} · {r.encoder}" for r in rows])
            axes.set(xlabel="AUC", xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4))
            return svg(figure, "probes", "Areas under the curve with their intervals, as in the table above")


def _names(rows: list[Row]) -> str:
    return ", ".join(f"{row.task} by {row.head}" for row in rows) or "none"
