"""Whole volumes of a shard dataset for PyTorch's DataLoader, for your own models and notebooks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from shards import Dataset

View = Callable[[NDArray[np.int16], Sequence[float]], Tensor]
"""From HU (D, H, W) and spacing (D, H, W) in mm to a model's input, for example `EncoderInfo.view`."""


class VolumeItem(NamedTuple):
    """A volume, with the keys for joining labels."""

    volume: Tensor
    """int16 HU (D, H, W), or the output of the dataset's `view`."""
    spacing_mm: Tensor
    """float64 (3,), of the stored voxels, (D, H, W)."""
    key: str
    study_key: str
    patient_key: str


class VolumeDataset(TorchDataset[VolumeItem]):
    """The volumes of a shard dataset, in the order of its index; can be pickled and forked.

    Volumes differ in size: batches need a `view` with outputs of one size, or a batch size of 1. Nothing is
    cropped at random or augmented; `fmct train` reads views through DALI instead (fmct_hpc.data.loader).
    """

    def __init__(self, data: Path | str | Dataset, view: View | None = None):
        """data: a dataset or its folder, else FmctError. view: None returns the stored HU."""
        self.data = data if isinstance(data, Dataset) else Dataset.open(data)
        self.view = view

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> VolumeItem:
        """Volume i; a negative i counts from the end.

        Raises IndexError beyond the last volume, DamagedDataError if the stored volume is damaged.
        """
        number = range(len(self.data))[i]
        voxels, record = self.data.read(number), self.data.record(number)
        volume = torch.from_numpy(voxels) if self.view is None else self.view(voxels, record.spacing_mm)
        if self.view is not None and volume.ndim == 5 and len(volume) == 1:
            volume = volume[0]  # `EncoderInfo.view` returns a batch of one
        spacing = torch.tensor(record.spacing_mm, dtype=torch.float64)
        return VolumeItem(volume, spacing, record.key, record.study_key, record.patient_key)

    def __repr__(self) -> str:
        return f"VolumeDataset({self.data!r})"
