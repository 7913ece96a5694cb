"""Folders of tiny DINOv2 and DINOv3 models, in the layout of Hugging Face downloads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dinov2(folder: Path) -> torch.nn.Module:
    """A DINOv2 of width 12 with patches of 14."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _saved(Dinov2Model(Dinov2Config(**sizes, patch_size=14, image_size=28)), folder)


def dinov3(folder: Path) -> torch.nn.Module:
    """A DINOv3 of width 16 with patches of 16 and two registers."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _saved(DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=2)), folder)


def _saved(model: "PreTrainedModel", folder: Path) -> torch.nn.Module:
    model.eval().save_pretrained(folder)
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model
