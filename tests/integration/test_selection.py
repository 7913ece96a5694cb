"""`fmct select` on a synthetic export, and the agreement of preprocessing with its selection."""

import csv
import json
import os
import stat
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from forked_commands import forked_fmct
from header_series import series, stack
from preprocess_export import KEY, Export, run_inline, write_series

from preprocess.demo.export import export as export_demo
from preprocess.demo.identity import MARK, UID_ROOT
from preprocess.demo.plan import VOLUME
from preprocess.dicom.catalog import read_catalog
from preprocess.explain import IDENTIFIED, SCHEMA, explain, whole_studies
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason
from preprocess.select.rules import SelectConfig
from preprocess.select.study import studies

STUDIES = 12
BEST = SelectConfig()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    where = tmp_path_factory.mktemp("selection")
    export_demo(where / "export", STUDIES, seed=0, matrix=48)
    (where / "hmac.key").write_text(KEY)
    (where / "hmac.key").chmod(0o600)
    made = Export(where / "export" / "dicom", where / "catalog.parquet", where / "hmac.key")
    made.rescan()
    return made


def select(export: Export, *arguments: object, code: int = 0) -> str:
    """The command's output."""
    command = [*forked_fmct(), "select", str(export.catalog), *map(str, arguments)]
    command += [f"key_file={export.key_file}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr if code else result.stdout


def expected_decisions(export: Export, keep: str) -> dict[str, str]:
    """The expected decision about each series' headers, by key, from the generator's intent."""
    names = Pseudonymizer(export.key_file)
    decisions = {}
    for study in json.loads((export.folder.parent / "truth.json").read_text())["studies"]:
        for one in study["series"]:
            key = names.series(study["patient_id"], study["study_instance_uid"], one["series_instance_uid"])
            decisions[key] = one["expected"]
            if one["expected"] == Reason.TRUNCATED_PIXEL_DATA:  # the best of its study by its headers
                decisions[key] = VOLUME
            elif keep == "best" and one["expected"] == VOLUME and "jpeg2000" in one["quirks"]:
                decisions[key] = Reason.NOT_BEST_OF_STUDY
    return decisions


def rows(export: Export, identified: bool = False, **select: Any) -> list[dict[str, Any]]:
    config = export.config().model_copy(update={"select": SelectConfig(**select)})
    return explain(export.catalog, config, identified).table.to_pylist()


def test_the_command_prints_every_decision_and_its_counts(export: Export, tmp_path: Path) -> None:
    shown = select(export, "--explain", "--out", tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    decisions = expected_decisions(export, "best")
    assert {row["key"]: row["decision"] for row in table} == decisions
    assert list(table[0]) == SCHEMA.names
    for row in table:
        (line,) = [line for line in shown.splitlines() if row["key"][:12] in line]
        assert row["decision"] in line
        assert row["detail"] in line
    counts = select(export)
    for decision, count in Counter(decisions.values()).items():
        assert any(line.split()[1:5:2] == [decision, str(count)] for line in counts.splitlines()), decision
    assert shown.endswith(f"{tmp_path / 'table.csv'}: {len(decisions)} series\n")
    for text in (shown, counts, (tmp_path / "table.csv").read_text()):
        assert MARK not in text
        assert UID_ROOT not in text


def test_identifiers_are_printed_only_on_request(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    shown = select(export, "--explain", "--identified", "--out", out)
    assert f"BONE {MARK}" in shown
    table = pq.read_table(out)
    assert table.schema.equals(IDENTIFIED)
    assert set(table["series_uid"].to_pylist()) == {one.series_uid for one in read_catalog(export.catalog)}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "not .csv or .parquet" in select(export, "--out", tmp_path / "table.txt", code=2)
    assert list(tmp_path.iterdir()) == [out]


def test_measurements_are_printed_beside_the_decisions(export: Export) -> None:
    by_decision = {row["decision"]: row for row in rows(export)}
    joined, volume = by_decision["joined"], by_decision["volume"]
    assert (joined["slices"], joined["thickness_mm"], joined["coverage_mm"]) == (15, 7, 105)
    assert volume["volume_key"] == volume["key"]
    assert joined["volume_key"] in {row["key"] for row in rows(export) if row["decision"] == "volume"}
    assert by_decision["bone_kernel"]["detail"].endswith("instances: bone, not soft or unknown")
    assert by_decision["missing_slices"]["greatest_gap_mm"] == 25
    assert by_decision["localizer"]["slices"] is None
    assert {row["tilt_deg"] for row in rows(export)} >= {18.0, -14.0}


def test_preprocessing_does_what_was_explained(export: Export, tmp_path: Path) -> None:
    config = export.config(formats=("zarr",), spacing=6.0).model_copy(update={"select": BEST})
    summary = run_inline(export, tmp_path, config)
    explained = {row["key"]: row for row in rows(export)}
    manifest = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    quarantine = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    failed = {row["key"] for row in quarantine if row["stage"] == "build"}
    assert len(failed) == 1
    for row in quarantine:
        if row["key"] not in failed:
            assert (row["reason"], row["detail"]) == (
                explained[row["key"]]["decision"],
                explained[row["key"]]["detail"],
            )
    # The next best one replaced the failed one.
    (instead,) = [row["key"] for row in explained.values() if row["decision"] == "not_best_of_study"]
    made = {row["key"] for row in manifest}
    assert made == {row["key"] for row in explained.values() if row["decision"] == VOLUME} - failed | {
        instead
    }
    joined = [row for row in manifest if row["joined"]]
    assert [(part["key"] == joined[0]["key"], part["slices"]) for part in joined[0]["joined"]] == [
        (True, 18),
        (False, 15),
    ]
    (second,) = [row for row in explained.values() if row["decision"] == "joined"]
    assert joined[0]["joined"][1]["key"] == second["key"]
    assert joined[0]["slices"] == 33
    gap = joined[0]["joined"][1]["low_mm"] - joined[0]["joined"][0]["high_mm"]
    assert gap == pytest.approx(5.5, abs=1e-3)
    assert (summary.volumes, summary.joined_series) == (STUDIES, 1)
    assert summary.series == summary.volumes + summary.joined_series + summary.rejected_series


def test_no_study_spans_row_groups_of_a_catalog() -> None:
    members = [
        series(stack(), study_uid=str(study), series_uid=f"{study}.{n}")
        for study in range(7)
        for n in range(1 + study % 3)
    ]
    for cuts in ([], [1], [3, 4], list(range(1, len(members)))):
        bounds = [0, *cuts, len(members)]
        groups = [members[a:b] for a, b in pairwise(bounds)]
        assert [one for whole in whole_studies(iter(groups)) for one in whole] == studies(members)


def test_the_table_overwrites_no_input(export: Export, tmp_path: Path) -> None:
    link = tmp_path / "table.parquet"
    link.symlink_to(export.catalog)
    before = export.catalog.read_bytes()
    for out in (export.catalog, link):
        assert "which it would replace" in select(export, "--out", out, code=2)
    assert export.catalog.read_bytes() == before
    assert link.is_symlink()


def test_the_order_is_by_key_not_by_patient(export: Export) -> None:
    """Numbers in the catalog's order would reveal the order of the Patient IDs."""
    explained = rows(export, identified=True)
    keys = [(row["study_key"], row["key"]) for row in explained]
    assert keys == sorted(keys)
    patients = [row["patient_id"] for row in explained]
    assert patients != sorted(patients)


def test_the_output_ends_with_unmatched_texts(tmp_path: Path) -> None:
    texts = ["Kepala tanpa zat", "Kepala tanpa zat", "[bold]Budi\x1b[2J", "HEAD 5.0"]
    for number, text in enumerate(texts):
        kernel = {"ConvolutionKernel": "Zz9x"} if number == 3 else {}
        write_series(tmp_path / "dicom", number, 1, axial(slices=3), SeriesDescription=text, **kernel)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    export = Export(tmp_path / "dicom", tmp_path / "c.parquet", tmp_path / "key")
    export.rescan()
    output = select(export)
    assert "2 of series_description, 1 of kernel" in output.splitlines()[-1]
    assert "Kepala" not in output
    assert "Budi" not in output
    actual = [line.split("│") for line in select(export, "--identified").splitlines() if "│" in line]
    shown = [[cell.strip() for cell in cells[1:-1]] for cells in actual if len(cells) == 5]
    assert shown[-3:] == [
        ["Kepala tanpa zat", "series_description", "2"],
        ["Zz9x", "kernel", "1"],
        [r"[bold]Budi\x1b[2J", "series_description", "1"],
    ]
    rows = ("{kind: body, term: kepala, meaning: head}", "{kind: neutral, term: budi, meaning: neutral}")
    term = f"select.terms=[{', '.join(rows)}]"
    assert "1 of kernel" in select(export, term).splitlines()[-1]
    assert "series_description" not in select(export, term)


def test_descriptions_are_shown_unchanged(tmp_path: Path) -> None:
    """Rich's markup, a terminal's commands, a spreadsheet's formulas."""
    texts = ["HEAD [/red]", "=HYPERLINK(1)", "HEAD \x1b[2J"]
    for number, text in enumerate(texts):
        write_series(tmp_path / "dicom", number, 1, axial(slices=3), SeriesDescription=text)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    export = Export(tmp_path / "dicom", tmp_path / "c.parquet", tmp_path / "key")
    export.rescan()
    out = tmp_path / "[bold]" / "t.csv"
    shown = select(export, "--explain", "--identified", "--out", out)
    assert f"{out}: 3 series" in shown
    assert "\x1b" not in shown
    for text in ("HEAD [/red]", "=HYPERLINK(1)", r"HEAD \x1b[2J"):
        assert text in shown
    with out.open() as file:
        written = {row["series_description"] for row in csv.DictReader(file)}
    assert written == {"HEAD [/red]", "'=HYPERLINK(1)", "HEAD \x1b[2J"}
