"""Kinds of encoder: unsupported keys are refused by name, and earlier records are read as ViT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import small_config

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.backbone import summary
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import KINDS, EncoderKind, size_of

PLAIN = EncoderKind("fmct_hpc.model.vit:VisionTransformer", "as a ViT, but it can nothing", has_cls=False)


def config(objective: dict[str, object]) -> TrainConfig:
    none = {f"{part}_weight": 0 for part in ("mae", "ibot", "dino")}
    return small_config(Path("unused"), objective={**none, **objective})


@pytest.mark.parametrize(
    ("lacks", "objective", "key"),
    [
        ("has_cls", {"dino_weight": 1}, "dino_weight"),
        ("has_cls", {"dino_weight": 0, "lejepa_weight": 1}, "lejepa_weight"),
        ("has_cls", {"ibot_weight": 1, "koleo_weight": 1}, "koleo_weight"),
        ("hides", {"dino_weight": 1, "ibot_weight": 1}, "ibot_weight"),
        ("partial", {"dino_weight": 1, "mae_weight": 1}, "mae_weight"),
    ],
)
def test_a_part_that_the_encoder_does_not_support_is_refused_by_its_key(
    monkeypatch: pytest.MonkeyPatch, lacks: str, objective: dict[str, object], key: str
) -> None:
    config(objective)
    without: dict[str, Any] = {lacks: False}
    monkeypatch.setitem(KINDS, "vit", KINDS["vit"]._replace(**without))
    with pytest.raises(ValueError, match=rf"objective\.{key}.*model\.kind=vit.*set it to 0"):
        config(objective)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"size": "S"}, "size=S"),
        ({"width": 24}, "depth missing"),
        ({"drop_path": 0.1}, "drop_path"),
        ({"positions": "rope"}, "positions"),
        ({"keep_tokens": 0.5}, "keep_tokens"),
        ({"heads": 2}, "heads"),
    ],
)
def test_a_key_that_the_kind_does_not_support_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], key: str
) -> None:
    monkeypatch.setitem(KINDS, "vit", PLAIN)
    shape = (
        {} if "size" in given or "width" in given else {"width": 23, "depth": 1}
    )  # 12 heads do not divide it
    if shape:
        recorded = ModelConfig.model_validate(shape)
        assert ModelConfig.from_record(recorded.model_dump(mode="json")) == recorded
    with pytest.raises(ValueError, match=key):
        ModelConfig.model_validate({**shape, **given})


def test_a_record_without_a_kind_means_vit_and_a_vit_records_none() -> None:
    assert ModelConfig.from_record({}).kind == "vit"
    assert "kind" not in ModelConfig().recorded()
    assert "convnet" not in KINDS, "the example of docs/architecture.md, which a test adds to a copy"


def test_measured_costs_of_an_encoder_equal_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_config(Path("unused"), model={"mlp_ratio": 3, "layer_scale": 0.1})
    closed, patches = size_of("vit"), 8
    expected = closed.parameters(settings), closed.flops(settings, 24, patches)
    monkeypatch.setitem(KINDS, "vit", KINDS["vit"]._replace(size=EncoderKind("", "").size))
    measured = size_of("vit")
    assert (measured.parameters(settings), measured.flops(settings, 24, patches)) == expected


def test_the_summary_is_the_cls_token_or_the_mean() -> None:
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    assert torch.equal(summary(tokens, 1), tokens[:, 0])
    assert torch.equal(summary(tokens, 0), tokens.sum(dim=1) / 4)
