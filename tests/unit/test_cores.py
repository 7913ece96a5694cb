import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.cores import usable_cores

MANY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/user/job", {"user/job/cpu.max": "100000 100000", "user/cpu.max": "max 100000"}, 1),
        ("0::/user/job", {"user/job/cpu.max": "max 100000", "user/cpu.max": "50000 100000"}, 1),
        ("0::/user/job", {"user/job/cpu.max": "max 100000"}, MANY),
        # In a container whose cgroup is the top of the mount, unlike its path outside.
        ("0::/../../docker/abc", {"cpu.max": "100000 100000"}, 1),
        (
            "3:cpuset:/\n2:cpu,cpuacct:/job",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "150000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("1:cpu:/job", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, MANY),
        ("1:cpuset:/job", {"cpuset/job/cpu.max": "1000 100000"}, MANY),
        ("no cgroup", {}, MANY),
    ],
)
def test_a_cpu_quota_bounds_the_cores(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    (tmp_path / "own").write_text(f"{own}\n")
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(f"{text}\n")
    assert usable_cores(tmp_path / "own", tmp_path / "mounted") == expected


def test_ranks_share_the_allowed_cores() -> None:
    code = (
        "import os; from launch.ranks import run_ranks; os.environ.pop('OMP_NUM_THREADS', None);"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "run_ranks(['sh', '-c', 'echo $OMP_NUM_THREADS'], 1)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1"]
