"""A slice of a tested volume with truth and prediction, for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fmct_hpc.dense.cohort import Cohort
from shards.errors import FmctError

LEVEL_HU, WIDTH_HU = 40.0, 80.0
"""The brain window."""


@dataclass(frozen=True)
class Example:
    """An axial slice, rows from anterior to posterior and columns from the patient's right to left."""

    name: str
    """The class."""
    key: str
    """The volume's key."""
    grey: NDArray[np.uint8]
    """(H, W)."""
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    spacing_mm: tuple[float, float]

    @staticmethod
    def packed(examples: Sequence["Example"]) -> bytes:
        """The examples as safetensors."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for one in examples:
            place = f"{one.name} {one.key}"
            arrays |= {
                f"{place} grey": np.ascontiguousarray(one.grey),
                f"{place} truth": np.ascontiguousarray(one.truth.astype(np.uint8)),
                f"{place} predicted": np.ascontiguousarray(one.predicted.astype(np.uint8)),
                f"{place} spacing": np.array(one.spacing_mm),
            }
        return bytes(save(arrays))

    @classmethod
    def unpacked(cls, data: bytes) -> list["Example"]:
        """The examples from the output of `packed`; raises FmctError for anything else."""
        try:
            arrays = load(data)
            places = dict.fromkeys(tuple(name.split(" ")[:2]) for name in arrays)
            return [
                cls(
                    name,
                    key,
                    arrays[f"{name} {key} grey"],
                    arrays[f"{name} {key} truth"] > 0,
                    arrays[f"{name} {key} predicted"] > 0,
                    tuple(arrays[f"{name} {key} spacing"].tolist()),
                )
                for name, key in places
            ]
        except (SafetensorError, KeyError, ValueError):
            raise FmctError("an example of `fmct segment` is damaged; run it again") from None


def example(cohort: Cohort, row: int, predicted: NDArray[np.bool_], number: int) -> Example:
    """The axial slice of a volume with the largest area of a class; predicted: (D, H, W)."""
    truth = cohort.truth(row)[number]
    depth = int(np.argmax(truth.sum(axis=(1, 2))))
    volume = cohort.volumes.read(int(cohort.rows[row]))
    grey = np.clip((volume[depth].astype(np.float32) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU, 0, 1)
    _, height_mm, width_mm = cohort.volumes.info.spacing_mm
    seen = np.s_[::-1, ::-1]
    return Example(
        name=cohort.classes[number],
        key=str(cohort.keys[row]),
        grey=np.rint(grey * 255).astype(np.uint8)[seen],
        truth=truth[depth][seen],
        predicted=predicted[depth][seen],
        spacing_mm=(height_mm, width_mm),
    )
