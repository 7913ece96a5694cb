"""Features of many scans do not keep the tokens of their batches in memory."""

from pathlib import Path
from typing import Any

import torch
from small_training import small_encoder, write_dataset

import fmct_hpc
from fmct_hpc.train.export import load_encoder


def test_a_cls_feature_does_not_keep_all_tokens_in_memory(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)
    encoder, info = load_encoder(small_encoder(data, tmp_path / "encoder"))
    scans = list(fmct_hpc.features(data, (encoder, info), batch=2))
    assert len(scans) == 2
    for scan in scans:
        held: Any = scan.cls
        while getattr(held, "base", None) is not None:
            held = held.base
        size = held.untyped_storage().nbytes() if isinstance(held, torch.Tensor) else held.nbytes
        assert size <= 2 * scan.cls.nbytes
