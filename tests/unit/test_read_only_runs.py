"""A colleague's run, dataset and features can be used with read permission only."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_commands import forked_python
from report_run import write_inputs
from test_probe_answers import state

COMMANDS = """
import json, sys
from launch.cli import app
from restricted import obey_permissions

folder, out, owner = sys.argv[1:]
if owner == "this user":
    obey_permissions()
run, data, labels = f"{folder}/run", f"{folder}/data/zarr", f"{folder}/labels.parquet"
encoders = json.dumps([{"name": "theirs", "weights": run}])
with open(f"{out}/grid.yaml", "w") as grid:
    grid.write("{}")
shared = [f"data={data}", f"labels={labels}", "bootstrap=20"]
for command in (
    ["probe", run, "--out", f"{out}/probe", *shared, "folds=3"],
    ["sweep", f"{out}/grid.yaml", "--out", f"{out}/sweep", *shared, f"features={out}/features", "folds=3",
     f"encoders={encoders}", "allow_pretraining_patients=true", "seeds=[0]"],
    ["features", data, "--encoder", run, "--out", f"{out}/scans"],
    ["export-model", f"{run}/encoder.safetensors", "--out", f"{out}/encoder.pt2"],
    ["report", f"{out}/report.html", "--run", run, "--data", f"{folder}/data", "--labels", labels,
     "--features", f"{folder}/features", "--probe", f"{out}/probe"],
    ["shards", "verify", data],
    ["shards", "split", data, "--out", f"{out}/parts", "train=0.5", "test=0.5"],
):
    try:
        app(command, standalone_mode=False)
    except SystemExit as ended:
        assert not ended.code, command
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_inputs(folder)
    return folder


@pytest.fixture(params=["this user", "another"])
def owner(given: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """This user's files are made read-only; another user's are protected by ownership, also from root."""
    if request.param == "another" and os.geteuid():
        pytest.skip("only root can give files away")
    paths = [given, *given.rglob("*")]
    for path in paths:
        if request.param == "another":
            os.chown(path, 12345, 12345)
        else:
            path.chmod(0o555 if path.is_dir() else 0o444)
    yield request.param
    for path in paths:
        os.chown(path, os.getuid(), os.getgid())
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.timeout(300)
def test_read_only_runs_are_used_and_unchanged(given: Path, owner: str, tmp_path: Path) -> None:
    out, script = tmp_path / "out", tmp_path / "commands.py"
    out.mkdir()
    script.write_text(COMMANDS)
    before = state(given)
    words = (script, given, out, owner)
    result = subprocess.run([*forked_python(), *map(str, words)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert state(given) == before
    assert (out / "probe/results.json").is_file()
    assert (out / "report.html").is_file()
