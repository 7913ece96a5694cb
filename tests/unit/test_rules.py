"""The rules that a configuration can set: texts, image types, contrast, the table of combinations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from header_series import CORONAL, series, stack

from launch.config import load
from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import Series
from preprocess.reasons import Reason, Rejection
from preprocess.select.combinations import read_combinations
from preprocess.select.image_kind import described_kind
from preprocess.select.lexicon import lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select
from shards.errors import FmctError


def reason(one: Series, **config: Any) -> str | None:
    """Why `one` is rejected; None if it is accepted."""
    try:
        select(one, SelectConfig(**config))
    except Rejection as rejection:
        return str(rejection.reason)
    return None


THIN = [0.5 * k for k in range(400)]
RULES: list[tuple[Reason, Callable[[], Series], dict[str, Any]]] = [
    (Reason.BODY_PART, lambda: series(stack(), body_part="CHEST"), {"body_part": {}}),
    (Reason.BODY_PART, lambda: series(stack(), body_part="NECK"), {"body_part": {"exclude": ["neck"]}}),
    (Reason.STUDY_DESCRIPTION, lambda: series(stack(), study_description="CT Abdomen/Pelvis"), {}),
    (Reason.SERIES_DESCRIPTION, lambda: series(stack(), series_description="C-SPINE 2.0"), {}),
    (Reason.PROTOCOL, lambda: series(stack(), protocol="5.7 ROUTINE KNEE"), {}),
    (
        Reason.SERIES_DESCRIPTION,
        lambda: series(stack(), series_description="Head 5.0"),
        {"series_description": {"include": ["^brain", "cerebr"]}},
    ),
    (Reason.BODY_PART, lambda: series(stack()), {"body_part": {"include": ["head"]}}),
    (
        Reason.IMAGE_TYPE,
        lambda: series(stack(image_type=("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"))),
        {"image_type": {"exclude": [r"\\CT_SOM5 SEQ$"]}},
    ),
    (Reason.DYNAMIC, lambda: series(stack(image_type=("DERIVED", "SECONDARY", "PERFUSION"))), {}),
    (Reason.DYNAMIC, lambda: series(stack(), series_description="Premonitoring"), {}),
    (Reason.LOCALIZER, lambda: series(stack(), series_description="Topogram  0.6  T20s"), {}),
    (Reason.CONTRAST, lambda: series(stack(), contrast="Omnipaque 350"), {}),
    (Reason.CONTRAST, lambda: series(stack(), series_description="HEAD C+"), {}),
    (Reason.NO_CONTRAST, lambda: series(stack()), {"contrast": "with"}),
    (Reason.KVP_OUT_OF_RANGE, lambda: series(stack(kvp=140.0)), {"kvp_range": [100, 120]}),
    (Reason.THICKNESS_OUT_OF_RANGE, lambda: series(stack(thickness=0.1)), {}),
    (Reason.THICKNESS_OUT_OF_RANGE, lambda: series(stack(thickness=5.0)), {"thickness_range_mm": [0, 3]}),
    (Reason.NOT_AXIAL, lambda: series(stack(orientation=CORONAL)), {"max_obliquity_deg": 45}),
    (Reason.TOO_MANY_SLICES, lambda: series(stack(THIN)), {"max_slices": 399}),
    (Reason.COVERAGE_TOO_LARGE, lambda: series(stack([5.0 * k for k in range(90)])), {}),
    (Reason.COVERAGE_TOO_LARGE, lambda: series(stack(THIN)), {"max_coverage_mm": 199}),
]


@pytest.mark.parametrize(("expected", "one", "config"), RULES)
def test_each_rule_rejects_what_it_names_and_nothing_else_does(
    expected: Reason, one: Callable[[], Series], config: dict[str, Any]
) -> None:
    assert reason(one(), **config) == expected
    assert reason(series(stack())) is None


ACCEPTED: list[tuple[Series, dict[str, Any]]] = [
    (series(stack(), study_description="CT HEAD AND C SPINE", body_part="HEADNECK"), {}),
    (series(stack(), study_description="TRAUMA CHEST ABDOMEN PELVIS", series_description="5mm brain"), {}),
    (series(stack(), body_part="CHEST"), {"body_part": {"exclude": []}}),
    (series(stack(), body_part="chest"), {"body_part": {"include": ["CHEST"], "exclude": []}}),
    (series(stack()), {"body_part": {"include": ["head", "^$"]}}),
    (series(stack(), contrast="Ultravist"), {"contrast": "any"}),
    (series(stack(), series_description="HEAD POST CONTRAST"), {"contrast": "with"}),
    (series(stack(image_type=("DERIVED", "SECONDARY", "AXIAL"))), {"allow_derived": True}),
    (series(stack(), series_description="AX MIP"), {"allow_derived": True}),
    (series(stack(thickness=None, kvp=None)), {}),
    (series(stack(thickness=0.0, kvp=0.0)), {}),
    (series(stack(THIN)), {"max_coverage_mm": 201}),
]


@pytest.mark.parametrize(("one", "config"), ACCEPTED)
def test_the_rules_accept_head_ct_series(one: Series, config: dict[str, Any]) -> None:
    assert reason(one, **config) is None


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        *[(text, "dose_report") for text in ("Dose Report", "Patient Protocol", "DOSE", "Dose Info")],
        *[(text, "dose_report") for text in ("DoseReport", "CT_Dose_Report_1", "DOSE SUMMARY", "Dose-SR")],
        *[(text, "dose_report") for text in ("X-Ray Radiation Dose Report", "Dose Structured Report")],
        *[(text, None) for text in ("Head Low Dose 5.0 H31s", "CT Head low-dose", "Kopf Low Dose nativ")],
        *[(text, None) for text in ("HEAD ULTRA LOW DOSE", "Head Dose Modulation", "Low Dose Sinus 1.0")],
        *[(text, None) for text in ("Head Low Dose Reporting 3 mm", "LowDoseInformed", "Low Dose SRS 1.0")],
        *[(text, "localizer") for text in ("SCOUT", "Topogram 0.6 T20s", "Surview", "LOCALIZER LAT")],
        *[(text, "dynamic") for text in ("Perfusion 10.0 H20f", "CTP", "Monitoring", "SmartPrep Series")],
        *[(text, "dynamic") for text in ("Tmax", "rCBF", "Test Bolus", "SURESTART")],
        *[(text, "derived") for text in ("AX MIP 10", "MinIP", "VRT", "SUBTRACTION")],
        *[(text, None) for text in ("", "HEAD 5.0 J40s", "STANDARD BRAIN", "Routine", "Head ADose 3")],
    ],
)
def test_image_kinds_named_in_descriptions(description: str, expected: str | None) -> None:
    assert described_kind(description, lexicon()) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.body_part.exclude=['head(']", "override .*expected a regular expression .missing"),
        ("select.kvp_range=[150, 80]", "override select.kvp_range: expected .minimum, maximum"),
        ("select.contrast=no", "select.contrast.*'without', 'with' or 'any'"),
        ("select.kernels=[sharp]", "select.kernels.*'soft', 'bone' or 'unknown'"),
        ("select.kernels=[]", "select.kernels.*at least 1"),
        ("select.prefer=[thinnest, thinnest]", "expected each criterion once"),
        ("select.modality=MR", "select.modality.*'CT'"),
        ("select.keep=first", "select.keep.*'best' or 'all'"),
        ("select.bodypart={}", "did you mean body_part"),
        ("select.body_part={includes: [head]}", "did you mean include"),
        ("select.table=absent.csv", "absent.csv: no such file"),
    ],
)
def test_an_invalid_rule_is_named_when_the_configuration_is_loaded(override: str, message: str) -> None:
    with pytest.raises(FmctError, match=message):
        load(PreprocessConfig, None, ["key_file=k", override])


TABLE = """study_description,kvp,kernel
CT HEAD WO,120,J37s
 ct  Head wo ,120.0,Hr40s
TRAUMA,,Hr40s
,100,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "combos.csv").write_text(TABLE)
    return tmp_path / "combos.csv"


@pytest.mark.parametrize(
    ("study", "kvp", "kernel", "wanted"),
    [
        ("CT HEAD WO", 120.0, "J37s", True),
        ("ct head  wo ", 120.0, "j37S", True),
        ("CT HEAD WO", 120.0, "Hr40s\\3", True),
        ("Trauma", 80.0, "Hr40s", True),
        ("trauma", None, "Hr40s", True),
        ("whatever", 100.0, "UB", True),
        ("CT HEAD WO", 110.0, "J37s", False),
        ("CT HEAD WO CONTRAST", 120.0, "J37s", False),
        ("CT HEAD", 120.0, "J37s", False),
        ("TRAUMA", 120.0, "J37s", False),
        ("", None, "", False),
    ],
)
def test_the_table_names_wanted_combinations(
    table: Path, study: str, kvp: float | None, kernel: str, wanted: bool
) -> None:
    one = series(stack(kvp=kvp, kernel=kernel), study_description=study)
    assert reason(one, table=table) == (None if wanted else "not_in_table")


def test_the_digest_depends_on_the_content_of_the_table_only(table: Path, tmp_path: Path) -> None:
    def digest(path: Path) -> str:
        return load(PreprocessConfig, None, ["key_file=k", f"select.table={path}"]).digest()

    header, *rows = TABLE.splitlines()
    moved = tmp_path / "moved.csv"
    moved.write_text("\ufeff" + "\n".join([header, *reversed(rows), "", rows[0].lower()]) + "\n")
    assert digest(moved) == digest(table)
    moved.write_text("\n".join([header, *rows[1:]]) + "\n")
    assert digest(moved) != digest(table)
    assert digest(table) != PreprocessConfig(key_file=Path("k")).digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "study,kvp,kernel\nA,120,B\n",
            "the columns are study, kvp, kernel; expected study_description",
        ),
        ("study_description,kvp,kernel\nA,120\n", "row 2: 2 cells, the header has 3"),
        ("study_description,kvp,kernel\nA,120,B\nC,high,D\n", "row 3: kvp is not a number"),
        ("study_description,kvp,kernel\n", "no rows"),
        ("", "the columns are"),
        (b"\xff\xfe\x00", "not readable as UTF-8 CSV"),
    ],
)
def test_an_invalid_combination_table_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FmctError, match=message):
        read_combinations(path)
