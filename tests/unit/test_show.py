"""`fmct show` prints any table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from launch.cli import app
from shards.errors import FmctError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    columns = {
        "key": [f"{number:02x}" for number in range(50)],
        "auc": [0.5 + number / 123456789 for number in range(49)] + [None],
        "reason": ["few\tpatients\x1b[2J" if number % 2 else None for number in range(50)],
        "shape": [[number, 2, 3, 4] for number in range(50)],
        "fact": [{"kvp": 120.0, "name": "a"}] * 50,
    }
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def shown(*arguments: object) -> list[list[str]]:
    result = CliRunner().invoke(app, ["show", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_rows_are_text_without_control_characters(table: Path) -> None:
    header, *rows = shown(table)
    assert header == ["key", "auc", "reason", "shape", "fact"]
    assert len(rows) == 20
    assert rows[1] == ["01", "0.5", "few patients\\x1b[2J", "[1, 2, 3, ... (4)]", "kvp 120, name a"]


def test_columns_and_rows_are_selected(table: Path) -> None:
    assert shown(table, "--columns", "auc,key", "--rows", 1) == [["auc", "key"], ["0.5", "00"]]
    assert shown(table, "--columns", "auc", "--where", "key=31") == [["auc"], [""]]
    assert shown(table, "--columns", "key", "--where", "reason=", "--where", "key=01") == [["key"]]
    assert ["auc", "double"] in shown(table, "--schema")


@pytest.mark.parametrize("given", [("--columns", "aux"), ("--where", "aux=1"), ("--where", "key")])
def test_missing_columns_and_rows_are_named(table: Path, given: tuple[str, ...]) -> None:
    with pytest.raises(FmctError, match=given[1].partition("=")[0]):
        shown(table, *given)


def test_an_invalid_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for name in ("a.parquet", "absent.parquet"):
        with pytest.raises(FmctError, match=name):
            shown(tmp_path / name)
    with pytest.raises(FmctError, match="no such file"):
        shown(tmp_path / "absent.parquet")
