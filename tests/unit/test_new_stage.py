"""Follows docs/architecture.md, "How to add a stage that runs as an array"."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from documents import REPOSITORY, blocks
from small_training import write_dataset

from launch.jobs import ledgers
from launch.jobs.progress import progress, progress_of_job
from shards import Dataset
from shards.errors import FmctError
from shards.progress import VARIABLE
from shards.share import Share
from shards.split import reshard

HEADING = "How to add a stage that runs as an array"


def shown(language: str) -> tuple[str, str]:
    [block] = blocks(REPOSITORY / "docs/architecture.md", language, HEADING)
    path, text = block.split("\n", 1)
    return path.removeprefix("# "), text


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The document's module and registry."""
    path, text = shown("python")
    assert not (REPOSITORY / path).exists()
    file = tmp_path / "stage.py"
    file.write_text(text)
    spec = spec_from_file_location("fmct_hpc.ranges", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fmct_hpc.ranges", module)
    spec.loader.exec_module(module)
    path, diff = shown("diff")
    lines = diff.removeprefix("@@\n").splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    source = (REPOSITORY / path).read_text()
    assert source.count(before) == 1
    changed: dict[str, Any] = {"__name__": "changed"}
    exec(compile(source.replace(before, after), path, "exec"), changed)
    monkeypatch.setattr(ledgers, "LEDGERS", changed["LEDGERS"])
    monkeypatch.setattr("launch.jobs.progress.LEDGERS", changed["LEDGERS"])
    return module


def test_the_shares_of_a_new_stage_are_counted_and_collected(
    tmp_path: Path, stage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_dataset(tmp_path / "whole", volumes=7)
    data, out = tmp_path / "data", tmp_path / "out"
    reshard(whole, data, shard_bytes=1)
    monkeypatch.setenv(VARIABLE, str(out / "slurm/12_0.ledgers.json"))
    assert stage.run_share(data, out, Share(0, 2)) == 4
    assert progress_of_job(out / "slurm", "12_0") == (4, 4, 0, "shard")
    assert progress(out) == (4, 7, 0, "shard")
    with pytest.raises(FmctError, match="3 shards"):
        stage.collect(data, out)
    monkeypatch.setenv(VARIABLE, str(out / "slurm/12_1.ledgers.json"))
    assert [stage.run_share(data, out, Share(1, 2)), stage.run_share(data, out)] == [3, 0]
    volumes = [Dataset.open(data).read(i) for i in range(7)]
    expected = [(int(np.min(volume)), int(np.max(volume))) for volume in volumes]
    assert [(one.lowest, one.highest) for one in stage.collect(data, out)] == expected
