"""docs/architecture.md, "How to add a rule of selection, or a check", the check applied literally."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from documented_example import PACKAGES, apply
from documents import REPOSITORY, blocks
from forked_commands import forked_python

HEADING = "How to add a rule of selection, or a check"
USE = """
import json
import numpy as np
from synthetic_scan import scan_of, stack_of, stored
from preprocess.anatomy.head import HEAD
from preprocess.config import CHECKS, LIMITS, CheckConfig
from preprocess.qc.check import check
from preprocess.qc.remedies import REMEDIES
from preprocess.reasons import Reason, Rejection
from preprocess.tasks.manifest import SCHEMA
from preprocess.volume.measure import Measures, measure

slices = stack_of(np.arange(-70.0, 106.0, 5.0))
sound = scan_of(slices)
plate = sound.copy()
middle = [size // 2 for size in plate.shape]
plate[tuple(slice(at - reach, at + reach) for at, reach in zip(middle, (3, 12, 12)))] = 3000
limits = CheckConfig(max_jump_hu=5000, max_jump_mm=50, bone_hu=(0, 4000), brain_hu=(-100, 4000))
found = {}
for name, hu in (("sound", sound), ("plate", plate)):
    head, voxels, target = stored(hu, slices)
    one = measure(hu, slices, head, voxels, target, HEAD)
    found[name] = [one.metal_ml, check(one, target.affine, limits, HEAD)]
found["earlier"] = check(one.model_copy(update={"metal_ml": None}), target.affine, limits, HEAD)
try:
    check(one, target.affine, limits.model_copy(update={"reject": (Reason.METAL,)}), HEAD)
except Rejection as error:
    found["rejected"] = error.reason
found["recorded"] = "max_metal_ml" in CheckConfig().recorded()
found["column"] = "metal_ml" in SCHEMA.names
found["known"] = [set(LIMITS.values()) <= set(CHECKS), "max_metal_ml" in REMEDIES[Reason.METAL]]
print(json.dumps(found))
"""


def test_the_documented_check_flags_metal(tmp_path: Path) -> None:
    added = 0
    for package in PACKAGES:
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    changed = []
    for block in blocks(REPOSITORY / "docs/architecture.md", "diff", HEADING):
        name, diff = block.split("\n", 1)
        changed.append(tmp_path / name.removeprefix("# "))
        changed[-1].write_text(apply(diff, changed[-1].read_text()))
        added += sum(line.startswith("+") for line in diff.splitlines())
    assert added < 60
    actual = json.loads(_run(tmp_path, "-c", USE))
    assert actual["sound"] == [0, []]
    assert actual["plate"][0] > 2
    assert actual["plate"][1] == ["metal"]
    assert (actual["earlier"], actual["rejected"]) == ([], "metal")
    assert (actual["recorded"], actual["column"], actual["known"]) == (False, True, [True, True])
    _run(tmp_path, "-m", "ruff", "check", "--config", str(REPOSITORY / "pyproject.toml"), *map(str, changed))


def _run(copy: Path, *arguments: str) -> str:
    places = [str(copy), str(REPOSITORY / "tests"), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*forked_python(), *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
