"""What the digests of preprocessing cover: every key is classified here, and new keys change nothing."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from preprocess.config import CheckConfig, GridConfig, PreprocessConfig, PrivacyConfig
from preprocess.reasons import Reason
from preprocess.select.combinations import Combinations
from preprocess.select.rules import HeadPatterns, Patterns, SelectConfig
from preprocess.select.terms import Term
from preprocess.tasks.plan import settings_records
from shards.info import preprocessing_digest
from shards.preprocessing import same_voxels
from shards.section import Section

DEFAULT, MARKED = (
    "7ca80c330f446d7cd644725f0527be5dc67dc509a451984b092aa1049d0e2359",
    "7f98d6016d9e6ae76e743ae7170921fc4d4fba48f7a3ce2ed047deac73a5e587",
)
"""Digests of 0.1.0."""

OTHER = HeadPatterns(include=("head",))
SHAPES: dict[str, dict[str, Any]] = {
    "select": {
        **{"anatomy": None, "modality": None},  # there is one value; tests/integration/test_new_anatomy.py
        **{"body_part": OTHER, "study_description": OTHER, "series_description": OTHER, "protocol": OTHER},
        "image_type": Patterns(include=("AXIAL",)),
        **{"allow_derived": True, "contrast": "any", "kvp_range": (70.0, 150.0), "kernels": ("soft",)},
        "table": Combinations(rows=((None, 120.0, None),)),
        **{"thickness_range_mm": (0.3, 10.0), "min_slices": 11, "max_slices": 1400, "max_slice_gap_mm": 9.0},
        **{"min_coverage_mm": 81.0, "max_coverage_mm": 399.0, "max_obliquity_deg": 45.0, "join": False},
        **{"keep": "all", "prefer": ("thinnest",)},
        **{"unknown_contrast": "neither", "kev_range": (40.0, 100.0)},
        "terms": (Term(kind="body", term="koppa", meaning="head"),),
    },
    "grid": {"spacing_mm": (1.0, 1.0, 2.0), "crop_margin_mm": 6.0, "air_threshold_hu": -400.0},
    "check": {"reject": (Reason.NOT_A_HEAD,)},
    "privacy": {"deface": True},
}
"""Another value of each key that affects which volumes exist, or their voxels."""
LIMITS: dict[str, tuple[Reason, Any]] = {
    "hu_error": (Reason.HU_OUT_OF_RANGE, 201.0),
    "min_agreement": (Reason.AFFINE_MISMATCH, 0.9),
    "min_head_height_mm": (Reason.HEAD_TOO_SHORT, 81.0),
    "max_vertex_share": (Reason.VERTEX_MISSING, 0.5),
    "max_edge_share": (Reason.HEAD_CUT_BY_FIELD, 0.5),
    "max_table_share": (Reason.TABLE_IN_VOLUME, 0.5),
    "max_air_share": (Reason.MOSTLY_AIR, 0.5),
    "air_hu": (Reason.AIR_OUT_OF_RANGE, (-1030.0, -900.0)),
    "brain_hu": (Reason.BRAIN_OUT_OF_RANGE, (1.0, 80.0)),
    "bone_hu": (Reason.BONE_OUT_OF_RANGE, (501.0, 2500.0)),
    "max_noise_hu": (Reason.NOISY, 21.0),
    "max_jump_mm": (Reason.MOTION, 2.0),
    "max_jump_hu": (Reason.INTENSITY_STEP, 21.0),
}
"""The keys of `check` that affect volumes only if their finding rejects, and otherwise only flags."""
BESIDE: dict[str, Any] = {"show_defacing": False, "date_shift_days": 30}
"""The keys of `privacy` that change files beside the volumes."""
SECTIONS: dict[str, type[Section]] = {
    "select": SelectConfig,
    "grid": GridConfig,
    "check": CheckConfig,
    "privacy": PrivacyConfig,
}


def config(**sections: dict[str, Any]) -> PreprocessConfig:
    return PreprocessConfig.model_validate({"key_file": "k", **sections})


def test_every_key_is_classified() -> None:
    """A new key fails here. Its default must keep the earlier behaviour, and must never change.

    Put it under SHAPES, LIMITS (and preprocess.config.LIMITS), or BESIDE (and shards.preprocessing.BESIDE).
    """
    classified = {
        **{name: {*keys} for name, keys in SHAPES.items()},
        "check": {*SHAPES["check"], *LIMITS},
        "privacy": {*SHAPES["privacy"], *BESIDE, "share"},  # file permissions are in no digest
    }
    assert classified == {name: {*section.model_fields} for name, section in SECTIONS.items()}
    later = {"output", "key_file", "workers"}  # output and speed
    assert {*PreprocessConfig.model_fields} - later == {*SECTIONS}


def test_configurations_of_0_1_0_keep_their_digests() -> None:
    marked = config(
        check={"max_noise_hu": 25.0}, privacy={"date_shift_days": 3}, grid={"spacing_mm": (2, 2, 2)}
    )
    assert config().digest() == preprocessing_digest(config().everything()) == DEFAULT
    assert preprocessing_digest(marked.everything()) == MARKED
    assert marked.digest() == config(grid={"spacing_mm": (2, 2, 2)}).digest()


@pytest.mark.parametrize(
    ("section", "key"), [(s, key) for s, keys in SHAPES.items() for key in keys if keys[key] is not None]
)
def test_settings_that_change_volumes_are_in_the_digest(section: str, key: str) -> None:
    changed = config(**{section: {key: SHAPES[section][key]}})
    assert changed.digest() != DEFAULT
    assert not {*settings_records(changed)} & {*settings_records(config())}
    voxels = section == "grid" or key == "deface"
    assert same_voxels(changed.shaping(), config().shaping()) != voxels


@pytest.mark.parametrize("key", LIMITS)
def test_a_limit_is_in_the_digest_only_if_its_finding_rejects(key: str) -> None:
    finding, value = LIMITS[key]
    marking = {"reject": tuple({*CheckConfig().reject} - {finding})}
    rejecting = {"reject": (finding,)}
    assert config(check={**marking, key: value}).digest() == config(check=marking).digest()
    with_value, without = config(check={**marking, key: value}), config(check=marking)
    assert {*settings_records(with_value)} & {*settings_records(without)}
    assert config(check={**rejecting, key: value}).digest() != config(check=rejecting).digest()


@pytest.mark.parametrize("key", BESIDE)
def test_settings_of_files_beside_volumes_are_in_the_plan_digest_only(key: str) -> None:
    changed = config(privacy={key: BESIDE[key]})
    assert changed.digest() == DEFAULT
    assert not {*settings_records(changed)} & {*settings_records(config())}


def test_file_permissions_are_in_no_digest() -> None:
    changed = config(privacy={"share": "all"})
    assert (changed.digest(), settings_records(changed)) == (DEFAULT, settings_records(config()))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_later_key_at_its_default_changes_no_digest(section: str) -> None:
    later = create_model("Later", __base__=SECTIONS[section], fresh=(float, 3.0))
    fields: dict[str, Any] = {section: (later, later())}
    whole = create_model("Whole", __base__=PreprocessConfig, **fields)
    now = whole(key_file=Path("k"))
    assert (now.digest(), now.shaping()) == (DEFAULT, config().shaping())
    assert [*settings_records(now)] == [*settings_records(config())]
    used = whole.model_validate({"key_file": "k", section: {"fresh": 4.0}})
    assert used.digest() != DEFAULT
    assert whole.of_record(used.shaping()).digest() == used.digest()


def test_a_later_key_within_a_section_of_a_section_changes_no_digest() -> None:
    later = create_model("Later", __base__=HeadPatterns, fresh=(bool, False))
    select = create_model("Select", __base__=SelectConfig, protocol=(later, later()))
    whole = create_model("Whole", __base__=PreprocessConfig, select=(select, select()))
    assert whole(key_file=Path("k")).digest() == DEFAULT
    used = whole.model_validate({"key_file": "k", "select": {"protocol": {"fresh": True}}})
    assert used.digest() != DEFAULT


def test_sections_that_differ_in_selection_alone_make_the_same_voxels() -> None:
    one, other = config(select={"keep": "all"}, check={"reject": ()}), config(privacy=BESIDE)
    assert same_voxels(one.everything(), other.everything())
    assert not same_voxels(one.everything(), {**other.everything(), "unknown": {"key": 1}})
