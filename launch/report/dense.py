"""The report's section on segmentation heads on frozen patch tokens: figures, comparisons, pictures."""

import io
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from fmct_hpc.dense.picture import Example
from fmct_hpc.dense.run import ExampleFile, Summary
from launch.report.document import (
    Block,
    Bullets,
    Cell,
    Gallery,
    Picture,
    Section,
    Text,
    cell,
    interval,
    table,
)
from launch.report.results import split_in_words
from shards.errors import FmctError
from shards.newer_version import read_error

TRUTH_COLOUR, PREDICTED_COLOUR = (0, 158, 115), (230, 159, 0)
"""Safe for colour-blind readers (Okabe and Ito 2008); the prediction is also dashed."""
PICTURE_PIXELS = 384
DASH = 5
"""Length of a dash, and of the gap after it, in pixels."""
MAX_PICTURES = 8
MAX_ROWS = 500


class Segmented:
    """The output folder of `fmct segment`."""

    def __init__(self, folder: Path) -> None:
        """Read it; raises FmctError if it is missing or of another version."""
        self._folder = folder
        try:
            self.summary = Summary.model_validate_json((folder / "summary.json").read_bytes())
            self._results = pq.read_table(folder / "results.parquet").to_pylist()
            self._comparisons = pq.read_table(folder / "comparisons.parquet").to_pylist()
        except FileNotFoundError as error:
            raise FmctError(f"{error.filename}: missing; `fmct segment` writes it") from None
        except (ValidationError, pa.ArrowInvalid) as error:
            raise read_error(folder, error, "damaged, or written by another version; segment again") from None

    def section(self) -> Section:
        """Tables, pictures, and reasons for missing figures."""
        level = f"{self.summary.confidence:.0%}"
        blocks: list[Block] = [
            Text(
                "Heads on frozen patch tokens; training and test patients are disjoint. Dice and "
                "surface distances are means over the test volumes with the class, on their own grid; "
                "if nothing is predicted in a volume, its Dice is 0 and its distance the volume's diagonal. "
                f"The {level} intervals are percentile bootstraps over patients. The ceiling is the Dice of "
                "the true mask itself at the heads' resolution."
            ),
            Bullets(tuple(f"{leakage}."[0].upper() + f"{leakage}."[1:] for leakage in self.summary.leakage)),
        ]
        measured = [row for row in self._results if row["dice"] is not None]
        if measured:
            blocks.append(self._table(measured, level))
        if self._comparisons:
            blocks.append(self._compared(level))
        pictures = self._pictures()
        if pictures:
            blocks.append(Gallery(pictures))
        lacking = dict.fromkeys(
            (row["class"], row["split"], row["reason"]) for row in self._results if row["reason"]
        )
        if lacking:
            reasons = (f"{name}, {split_in_words(split)}: no Dice: {why}." for name, split, why in lacking)
            blocks.append(Bullets(tuple(reasons)))
        return Section("Segmentation", tuple(blocks))

    def _table(self, rows: list[dict[str, Any]], level: str) -> Block:
        columns: dict[str, list[Cell]] = {
            **{name: [cell(row[name]) for row in rows] for name in ("class", "encoder", "head")},
            "tested on": [cell(split_in_words(row["split"])) for row in rows],
            "volumes with class": [cell(row["n_with"]) for row in rows],
            f"Dice [{level}]": [_interval(row, "dice", ".3f") for row in rows],
            "ceiling": [cell(row["dice_ceiling"], ".3f") for row in rows],
            f"HD95, mm [{level}]": [_interval(row, "hd95_mm", ".1f") for row in rows],
            f"ASSD, mm [{level}]": [_interval(row, "assd_mm", ".1f") for row in rows],
            f"surface Dice at {self.summary.tolerance_mm:g} mm": [cell(row["nsd"], ".3f") for row in rows],
            "false alarms": [cell(row["false_alarms"], ".2f") for row in rows],
        }
        caption = "Segmentation" + _cut(rows, "results.parquet")
        return table(caption, tuple(columns), list(zip(*columns.values(), strict=True))[:MAX_ROWS])

    def _compared(self, level: str) -> Block:
        rows = self._comparisons
        columns: dict[str, list[Cell]] = {
            **{name: [cell(row[name]) for row in rows] for name in ("class", "encoder", "versus", "head")},
            "tested on": [cell(split_in_words(row["split"])) for row in rows],
            f"difference in Dice [{level}]": [_interval(row, "dice_difference", "+.3f") for row in rows],
            f"in HD95, mm [{level}]": [_interval(row, "hd95_mm_difference", "+.1f") for row in rows],
        }
        caption = "Pairwise comparisons of encoders, on the same volumes" + _cut(rows, "comparisons.parquet")
        return table(caption, tuple(columns), list(zip(*columns.values(), strict=True))[:MAX_ROWS])

    def _pictures(self) -> tuple[Picture, ...]:
        """For the first encoder, each class and each head: the volume of median Dice."""
        files = [one for one in self.summary.examples if one.encoder == self.summary.examples[0].encoder]
        pictures = [picture for one in files for picture in self._of(one)]
        return tuple(pictures[:MAX_PICTURES])

    def _of(self, one: ExampleFile) -> list[Picture]:
        try:
            examples = Example.unpacked((self._folder / one.file).read_bytes())
        except FileNotFoundError:
            raise FmctError(f"{self._folder / one.file}: missing; run `fmct segment` again") from None
        return [
            Picture(
                Markup('<img src="{}" alt="{}">').format(_png(outlined(example)), _caption(one, example)),
                _caption(one, example),
            )
            for example in examples
        ]


def _caption(one: ExampleFile, example: Example) -> str:
    return (
        f"{example.name}, {one.encoder}, {one.head} head: the test volume of median Dice, in the brain "
        "window; truth green, prediction orange and dashed"
    )


def _cut(rows: list[dict[str, Any]], file: str) -> str:
    return f"; first {MAX_ROWS:,} of {len(rows):,} rows, see {file}" if len(rows) > MAX_ROWS else ""


def _interval(row: dict[str, Any], name: str, spec: str) -> Cell:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], spec)


def outlined(example: Example) -> NDArray[np.uint8]:
    """The enlarged slice with the outlines of both masks: uint8 (H, W, 3)."""
    finest = min(example.spacing_mm)
    shown = max(size * mm / finest for size, mm in zip(example.grey.shape, example.spacing_mm, strict=True))
    times = [max(1, round(PICTURE_PIXELS / shown * mm / finest)) for mm in example.spacing_mm]

    def enlarged(image: NDArray[Any]) -> NDArray[Any]:
        return image.repeat(times[0], axis=0).repeat(times[1], axis=1)

    picture = np.repeat(enlarged(example.grey)[..., None], 3, axis=2)
    dashes = (np.indices(picture.shape[:2]).sum(axis=0) // DASH) % 2 == 0
    picture[_outline(enlarged(example.truth))] = TRUTH_COLOUR
    picture[_outline(enlarged(example.predicted)) & dashes] = PREDICTED_COLOUR
    return picture


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, iterations=2))


def _png(picture: NDArray[np.uint8]) -> str:
    """A data: URI."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
