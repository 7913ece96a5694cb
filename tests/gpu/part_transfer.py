"""Host to device: the int16 box of a volume compared with the float32 views that a CPU would send."""

from functools import partial

import torch
from measure import Measurement

SHAPES = {
    "int16 box, 170 x 210 x 170": ((170, 210, 170), torch.int16),
    "float32 views, 4 x 3 x 96³": ((4, 3, 96, 96, 96), torch.float32),
    "bfloat16 views, 4 x 3 x 96³": ((4, 3, 96, 96, 96), torch.bfloat16),
}


def measure(m: Measurement) -> None:
    """One row per kind, with and without pinned memory."""
    for what, (shape, dtype) in SHAPES.items():
        for pinned in (False,) if m.dry else (False, True):
            host = torch.zeros(shape, dtype=dtype)
            host = host.pin_memory() if pinned else host
            ms = m.ms(partial(host.to, m.device, non_blocking=True, copy=True))
            m.add(
                what=what,
                pinned=pinned,
                megabytes=host.nbytes / 1e6,
                ms=ms,
                gb_per_second=host.nbytes / ms / 1e6,
            )
