import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from bench_headers import main as headers
from bench_start import OURS, main


def test_every_command_of_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--against", str(OURS)])
    lines = capsys.readouterr().out.splitlines()[3:]
    assert len(lines) == 5
    assert all(re.search(r"\| \d+ \| \d\.\d\d \| \d+ \|$", line) for line in lines)


def test_headers_are_compared(
    shared_dicom: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shared_dicom("dcm_qa_ct")
    headers(["--files", "40", "--rounds", "1", "--against", str(OURS)])
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[3:]]
    assert lines == ["header", "scan", "select", "scan and select"]
