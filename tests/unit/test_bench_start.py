import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from bench_start import OURS, main


def test_every_command_of_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--against", str(OURS)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(re.search(r": \d+ ms, \d\.\d\d of \d+ ms$", line) for line in lines)
