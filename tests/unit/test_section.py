"""Sections of configurations: records, and keys under old names."""

import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.config import DataConfig
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.probe.config import ComparisonConfig, SweepConfig
from fmct_hpc.probe.methods.attentive import AttentiveConfig
from fmct_hpc.probe.methods.finetune import FinetuneConfig
from fmct_hpc.probe.methods.linear import LinearConfig
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.methods.neighbours import NeighboursConfig
from fmct_hpc.probe.splits import SplitConfig
from fmct_hpc.probe.store import FeatureRequest
from fmct_hpc.probe.sweep.grid import Unit
from fmct_hpc.train.checkpoint import seal
from fmct_hpc.train.config import HealthConfig
from launch.config import load
from preprocess.config import CheckConfig, GridConfig, PreprocessConfig, PrivacyConfig
from preprocess.select.rules import HeadPatterns, Patterns, SelectConfig
from shards.errors import FmctError
from shards.renamed_keys import RENAMED
from shards.section import Section, first_keys

RECORDED: tuple[type[Section], ...] = (
    *(Patterns, HeadPatterns, SelectConfig, GridConfig, CheckConfig, PrivacyConfig, ModelConfig),
    *(LogisticConfig, LinearConfig, NeighboursConfig, AttentiveConfig, FinetuneConfig, SplitConfig),
)
"""Sections with a digest."""
ENCODER = {"name": "ours", "function": "module:function"}


@pytest.mark.parametrize("section", RECORDED)
def test_keys_of_0_1_0_are_recorded_in_its_order_and_later_ones_where_they_are_used(section: Any) -> None:
    assert json.dumps(section.from_record({}).recorded()) == json.dumps(first_keys(section))
    later = create_model("Later", __base__=section, fresh=(int, 3), another=(float | None, None))
    assert json.dumps(later().recorded()) == json.dumps(section().recorded())
    used = later.model_validate({"fresh": 4, "another": 0.5})
    assert used.recorded() == {**section().recorded(), "another": 0.5, "fresh": 4}


def test_later_keys_keep_the_digests_of_features_and_units() -> None:
    keys = ("encoder_digest", "dataset_digest", "keys_digest")
    request: dict[str, Any] = {
        **dict.fromkeys(keys, "0" * 64),
        "layers": (-1,),
        "poolings": ("cls",),
        "tokens": False,
    }
    later = create_model("Later", __base__=FeatureRequest, fresh=(int, 3))
    assert later(**request).digest == FeatureRequest(**request).digest
    chosen = {"layer": -1, "pool": "cls", "fraction": 1.0, "shots": None, "seeds": (0,), "tasks": ("any",)}
    unit: dict[str, Any] = {"encoder": "ours", "method": "logistic", **chosen}
    assert create_model("Later", __base__=Unit, fresh=(int, 3))(**unit).recorded() == Unit(**unit).recorded()


def test_a_later_key_of_a_manifest_leaves_old_ones_valid() -> None:
    """Its digest is over the keys in the file, as of features.json."""
    document = {"format_version": 2, "step": 3, "data": {"spacing_mm": [1.0, 2e-06]}}
    assert seal({**document, "digest": "anything"}) == seal(document)
    text = b'{"format_version":2,"step":3,"data":{"spacing_mm":[1.0,2e-6]}}'
    assert seal(document) == hashlib.sha256(text).hexdigest()


def test_an_old_name_is_read_from_every_source_of_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(RENAMED, "DataConfig", {"edge": "view_size"})
    recipe = tmp_path / "train.yaml"
    recipe.write_text("data: {path: d, edge: 48}\n")
    stored = TrainConfig(data=DataConfig(path=Path("d"), view_size=48)).model_dump(mode="json")
    stored["data"]["edge"] = stored["data"].pop("view_size")
    each: tuple[Callable[[], TrainConfig], ...] = (
        lambda: load(TrainConfig, recipe, []),
        lambda: load(TrainConfig, None, ["data.path=d", "data.edge=48"]),
        lambda: TrainConfig.model_validate_json(json.dumps(stored)),
    )
    for read in each:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert read().data.view_size == 48
        assert [record.getMessage() for record in caplog.records] == [
            "DataConfig: edge was renamed to view_size; the old name is still read"
        ]
    with pytest.raises(FmctError, match="edge is the old name of view_size"):
        load(TrainConfig, recipe, ["data.view_size=24"])
    monkeypatch.delitem(RENAMED, "DataConfig")
    with pytest.raises(FmctError, match=r"data\.edge: unknown key"):
        load(TrainConfig, recipe, [])


def test_every_renamed_key_is_read_from_recipes_and_silently_from_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    classes: tuple[type[Section], ...] = (HealthConfig, FinetuneConfig, ComparisonConfig)
    sections = {cls.__name__: cls for cls in classes}
    assert sections.keys() == RENAMED.keys()
    for name, renamed in RENAMED.items():
        cls = sections[name]
        assert set(renamed.values()) <= cls.model_fields.keys()
        assert not renamed.keys() & cls.model_fields.keys()
        required = {"encoders": [ENCODER]} if name == "ComparisonConfig" else {}
        for old, new in renamed.items():
            value = getattr(cls.model_validate(required), new)
            with caplog.at_level(logging.WARNING):
                assert getattr(cls.from_record({**required, old: value}), new) == value
                assert not caplog.records
                assert getattr(cls.model_validate({**required, old: value}), new) == value
            assert len(caplog.records) == 1
            caplog.clear()


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "30efd13cbeabaa2b256641ae269f14e571e72052f8077674a60678c176646bb8"),
        (
            {
                "least_specificity": 0.8,
                "least_sensitivity": 0.7,
                "finetune": {"most_positive_weight": 5},
            },
            "60a431e52a9a56cb1d4f1a67c3765bbab99663b167ae5539652cfbcc3d709d6d",
        ),
    ],
)
def test_units_of_sweeps_keep_their_digests_under_renamed_keys(changes: dict[str, Any], digest: str) -> None:
    """The digests are those of the version before the names changed."""
    paths = dict.fromkeys(("data", "labels", "features"), "unused")
    config = SweepConfig.model_validate({**paths, "encoders": [ENCODER], **changes})
    budget: dict[str, Any] = {"fraction": 1.0, "shots": None, "seeds": (0,), "tasks": ("any",)}
    unit = Unit(encoder="ours", method="finetune", layer=None, pool=None, **budget)
    cohort: Any = Namespace(digest="0" * 64)
    assert unit.digest(config, cohort) == digest


def test_validators_of_a_section_see_current_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "ModelConfig", {"channels": "width"})
    assert ModelConfig.model_validate({"channels": 24, "depth": 1, "heads": 2}).width == 24
    model = TrainConfig.model_validate(
        {"data": {"path": "d"}, "model": {"channels": 24, "depth": 1, "heads": 2}}
    )
    assert model.model.width == 24


def test_a_renamed_key_of_0_1_0_keeps_its_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future version has `air_limit_hu` instead of `air_threshold_hu`."""
    fields: dict[str, Any] = {
        **{key: (field.annotation, field.default) for key, field in GridConfig.model_fields.items()},
        "air_limit_hu": (float, -500.0),
    }
    del fields["air_threshold_hu"]
    grid = create_model("GridConfig", __base__=Section, **fields)
    later = create_model("PreprocessConfig", __base__=PreprocessConfig, grid=(grid, grid()))
    today = PreprocessConfig(key_file=Path("k")).shaping()
    monkeypatch.setitem(RENAMED, "GridConfig", {"air_threshold_hu": "air_limit_hu"})
    for threshold in (-500.0, -400.0):
        record = {**today, "grid": {**today["grid"], "air_threshold_hu": threshold}}
        read = later.of_record(record)
        read_grid: Any = read.grid
        assert read_grid.air_limit_hu == threshold
        assert json.dumps(read.shaping()) == json.dumps(record)


def test_a_record_of_0_1_0_keeps_its_meaning_and_its_digest() -> None:
    """New configurations have other defaults."""
    old, new = ModelConfig.from_record({}), ModelConfig()
    assert (old.input_mean, old.input_std, old.initialisation) == (0.0, 1.0, "fixed")
    assert (new.input_mean, new.input_std, new.initialisation) == (0.5, 0.3, "fan_in")
    assert old.recorded() != new.recorded()
    assert ModelConfig.from_record(new.recorded()).model_dump() == new.model_dump()
    nested = TrainConfig.from_record({"data": {"path": "d"}, "model": {}})
    assert nested.model.model_dump() == old.model_dump()
    assert (
        TrainConfig.from_record_json(json.dumps({"data": {"path": "d"}, "model": {}})).model_dump()
        == nested.model_dump()
    )
