"""Throughput and model FLOPs utilisation (MFU).

MFU is the model's operations per second over the device's peak (Chowdhery et al. 2022, PaLM, appendix B);
recomputation by activation checkpointing does not count.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.size import tokens_per_volume, training_flops

if TYPE_CHECKING:
    import torch

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0, "V100": 125.0}
"""Dense bfloat16 (V100: float16) tensor-core peak by a word of the device's name, from NVIDIA's data sheets
of the SXM boards; PCIe boards are slower, so their MFU is underestimated."""


def peak_flops(device: torch.device) -> float | None:
    """Peak operations per second; None for a CPU and unlisted GPUs."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for word, peak in PEAK_TFLOPS.items() if word in name), None)


class Throughput:
    """Converts the duration of a step to figures."""

    def __init__(self, config: TrainConfig, ranks: int, device: torch.device) -> None:
        self._batch = config.run.batch
        self._device = device
        self._tokens = self._batch * tokens_per_volume(config)
        peak = peak_flops(device)
        self._share_of_peak = self._batch * training_flops(config) / (ranks * peak) if peak else None

    def figures(self, seconds: float, waited: float) -> dict[str, float]:
        """Figures of a step of `seconds`, in which rank 0 waited `waited` seconds for data."""
        figures = {
            "volumes_per_second": self._batch / seconds,
            "tokens_per_second": self._tokens / seconds,
            "data_wait": waited / seconds,
        }
        if self._share_of_peak is not None:
            figures["mfu"] = self._share_of_peak / seconds
        return figures | {"memory_gb": peak_memory(self._device) / 1e9}


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: tensors on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
