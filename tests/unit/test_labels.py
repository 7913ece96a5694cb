from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmct_hpc.probe.labels import LabelTable
from preprocess.labels import key_labels
from preprocess.privacy.deidentify import Pseudonymizer, new_key
from shards.errors import FmctError


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    new_key(tmp_path / "hmac.key")
    return tmp_path / "hmac.key"


def test_labels_are_keyed_and_no_other_column_passes(tmp_path: Path, key_file: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text(
        "\ufeffpatient_id,study_instance_uid,bleed,sdh\r\nMüller 7,1.2.3,1,\r\n\r\nOther, 1.2.4 ,0,1\r\n"
    )
    assert key_labels(csv, key_file, tmp_path / "labels.parquet").studies == 2
    table = pq.read_table(tmp_path / "labels.parquet")
    assert table.schema.names == ["study_key", "bleed", "sdh"]
    assert table.schema.field("sdh").type == pa.int8()
    names = Pseudonymizer(key_file)
    expected = {names.study("1.2.3"): (1, None), names.study("1.2.4"): (0, 1)}
    actual = {row["study_key"]: (row["bleed"], row["sdh"]) for row in table.to_pylist()}
    assert actual == expected
    assert table["study_key"].to_pylist() == sorted(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_instance_uid,bleed\n1.2,SMITH JOHN\n", r"row 2, column bleed"),
        ("study_instance_uid,bleed\n1.2,1\n1.3,2\n", r"row 3, column bleed"),
        ("study_instance_uid,bleed\n1.2,0.5\n", r"row 2, column bleed"),
        ("study_instance_uid,bleed\nSMITH JOHN,1\n", r"row 2, column study_instance_uid"),
        ("study_instance_uid,bleed\n,1\n", r"row 2, column study_instance_uid"),
        ("study_instance_uid,bleed\n1.2,1\n1.2,0\n", r"row 3: its study is in an earlier row"),
        ("study_instance_uid,bleed\n1.2\n", r"row 2: 1 cells, the header has 2"),
        ("study_instance_uid,bleed,bleed\n1.2,1,0\n", r"occurs twice"),
        ("study_instance_uid,SMITH JOHN\n1.2,1\n", r"column 2 needs a name"),
        ("exam,bleed\n1.2,1\n", r"no column study_instance_uid"),
        ("study_instance_uid;bleed\n1.2;1\n", r"separated by semicolons or tabs; save it with commas"),
        ("study_instance_uid\tbleed\n1.2\t1\n", r"separated by semicolons or tabs; save it with commas"),
        ("study_instance_uid,patient_id\n1.2,1\n", r"no label column"),
        ("study_instance_uid,bleed\n", r"no rows"),
        ("", r"no rows"),
        ('study_instance_uid,bleed\n"1.2,1\n', r"not readable as UTF-8 CSV"),
    ],
)
def test_an_invalid_table_is_refused_in_one_line_without_quoting_it(
    tmp_path: Path, key_file: Path, text: str, message: str
) -> None:
    csv, out = tmp_path / "labels.csv", tmp_path / "labels.parquet"
    csv.write_text(text)
    with pytest.raises(FmctError, match=message) as caught:
        key_labels(csv, key_file, out)
    assert "\n" not in str(caught.value)
    assert "SMITH" not in str(caught.value)
    assert not out.exists()


def test_a_missing_table_is_named(tmp_path: Path, key_file: Path) -> None:
    with pytest.raises(FmctError, match=r"absent\.csv: no such file"):
        key_labels(tmp_path / "absent.csv", key_file, tmp_path / "out")


def test_inputs_are_not_replaced(tmp_path: Path, key_file: Path) -> None:
    table, link = tmp_path / "labels.csv", tmp_path / "link.parquet"
    table.write_text("study_instance_uid,bleed\n1.2,1\n")
    link.symlink_to(table)
    before = {path: path.read_bytes() for path in (table, key_file, link)}
    for out in before:
        with pytest.raises(FmctError, match=r"is the input .* which it would replace"):
            key_labels(table, key_file, out)
    assert {path: path.read_bytes() for path in before} == before
    assert link.is_symlink()


def test_labels_of_another_key_are_not_replaced(tmp_path: Path, key_file: Path) -> None:
    csv, out = tmp_path / "labels.csv", tmp_path / "labels.parquet"
    csv.write_text("study_instance_uid,bleed\n1.2,1\n")
    key_labels(csv, key_file, out)
    key_labels(csv, key_file, out)
    before = out.read_bytes()
    new_key(tmp_path / "other.key")
    with pytest.raises(FmctError, match="another key than"):
        key_labels(csv, tmp_path / "other.key", out)
    assert out.read_bytes() == before


def test_a_decompression_bomb_is_not_read(tmp_path: Path, key_file: Path) -> None:
    """Parquet needs only a few bytes for this."""
    table = pa.table({"study_instance_uid": ["1.2"] * 10**6, "bleed": [1] * 10**6})
    pq.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(FmctError, match="not a readable Parquet file"):
        key_labels(tmp_path / "labels.parquet", key_file, tmp_path / "out.parquet")


def test_a_column_whose_name_breaks_lines_is_refused(tmp_path: Path) -> None:
    table = pa.table({"study_key": ["0" * 32], "bleed\nfmct: done": pa.array([1], pa.int8())})
    pq.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(FmctError, match=r"bleed\\nfmct"):
        LabelTable.read(tmp_path / "labels.parquet")
