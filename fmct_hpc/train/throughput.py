"""What a step computes against what the device could: model FLOPs utilisation (MFU).

MFU is the model's operations a second over the device's peak (Chowdhery et al. 2022, PaLM, appendix B): what
activation checkpointing computes again does not count.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.size import tokens_a_volume, training_flops

if TYPE_CHECKING:
    import torch

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0, "V100": 125.0}
"""Dense bfloat16 (V100: float16) tensor-core peak by a word of the device's name, from NVIDIA's data sheets
of the SXM boards; a PCIe board reaches less, so its MFU reads low."""


def peak_flops(device: torch.device) -> float | None:
    """Operations a second at the most; None for a CPU and for GPUs not listed."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for word, peak in PEAK_TFLOPS.items() if word in name), None)


class Throughput:
    """Turns the seconds of a step into figures to record."""

    def __init__(self, config: TrainConfig, ranks: int, device: torch.device) -> None:
        self._batch = config.run.batch
        self._device = device
        self._tokens = self._batch * tokens_a_volume(config)
        peak = peak_flops(device)
        self._share_of_peak = self._batch * training_flops(config) / (ranks * peak) if peak else None

    def figures(self, seconds: float, waited: float) -> dict[str, float]:
        """Of a step that took `seconds`, of which rank 0 waited `waited` for data."""
        found = {
            "volumes_per_second": self._batch / seconds,
            "tokens_per_second": self._tokens / seconds,
            "data_wait": waited / seconds,
        }
        if self._share_of_peak is not None:
            found["mfu"] = self._share_of_peak / seconds
        return found | {"memory_gb": peak_memory(self._device) / 1e9}


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of GPU memory by tensors, of a CPU's resident ones."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
