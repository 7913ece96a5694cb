"""A colleague's run, dataset and features can be used with read permission only."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_run import write_inputs
from test_probe_answers import state

DROP, OVERRIDES = 24, (1, 2)
"""PR_CAPBSET_DROP, and root's capabilities to bypass permissions (capabilities(7)): CAP_DAC_OVERRIDE and
CAP_DAC_READ_SEARCH."""

COMMANDS = """
import json, sys
from launch.cli import app
folder, out = sys.argv[1:]
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


def bound_by_permissions() -> None:
    """For a process about to start: file permissions then apply to root too."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in OVERRIDES:
            if libc.prctl(DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("owner", ["this user", "another"])
def test_read_only_runs_are_used_and_unchanged(tmp_path: Path, owner: str) -> None:
    """This user's files are made read-only; another user's are protected by ownership, also from root."""
    if owner == "another" and os.geteuid():
        pytest.skip("only root can give files away")
    given, out = tmp_path / "given", tmp_path / "out"
    write_inputs(given)
    out.mkdir()
    before = state(given)
    paths = [given, *given.rglob("*")]
    for path in paths:
        if owner == "another":
            os.chown(path, 12345, 12345)
        else:
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        result = subprocess.run(
            [sys.executable, "-c", COMMANDS, str(given), str(out)],
            preexec_fn=bound_by_permissions if owner == "this user" else None,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert state(given) == before
    assert (out / "probe/results.json").is_file()
    assert (out / "report.html").is_file()
