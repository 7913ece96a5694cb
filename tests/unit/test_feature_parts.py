"""Features of new scans in parts: an array gives the files of one process, and finished parts are kept."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_training import small_encoder, write_dataset
from typer.testing import CliRunner

from launch.cli import app
from shards.errors import FmctError


def test_shares_give_the_files_of_one_process_and_a_killed_one_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmct_hpc.inference.write.PART_VOLUMES", 2)
    data = write_dataset(tmp_path / "data", 5)
    (tmp_path / "Doe John").mkdir()
    encoder = small_encoder(data, tmp_path / "encoder")
    words = ["features", str(tmp_path / "Doe John"), str(data), "--encoder", str(encoder), "--out"]

    def output(*more: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*words, *more])
        assert (result.exit_code, isinstance(result.exception, FmctError)) == (code, code == 1)
        return result.output

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output(str(whole), code=1)  # a path has no scan
    for share, so_far in (
        ("2/3", "1 scans of 1 paths (1 of 4 parts)"),
        ("0/3", "(3 of 4 parts)"),
        ("1/3", ""),
    ):
        output(str(parts), "--share", share)
        assert so_far in output(str(parts), "--collect")
    made = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert made == {path.relative_to(parts): path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    rows = pq.read_table(parts / "features.parquet").to_pylist()
    assert [row["path"] for row in rows] == [1] * 5
    assert list(rows[0]) == ["path", "key", "cls", "mean", "flags", "study_key", "patient_key"]
    # The refused path and the part with a missing file are retried; the others are kept.
    (parts / f"{rows[0]['key']}.safetensors").unlink()
    assert "2 parts" in output(str(parts), "--share", "0/1")
    output(str(parts), "--collect")
    assert {path: (parts / path).read_bytes() for path in made} == made
    for way in (["--share", "0/2"], ["--collect"]):
        output(str(parts), *way, "--private-map", str(tmp_path / "map.parquet"), code=1)
        assert not (tmp_path / "map.parquet").exists()
