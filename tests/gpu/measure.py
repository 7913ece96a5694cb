"""Runs a part of `tests/gpu/run.sh`, or writes the table: python measure.py PART --out OUT [--dry]."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
PACKAGES = ("torch", "triton", "nvidia-dali-cuda130", "deepspeed", "numba", "numpy", "pydantic", "fmct-hpc")
UNITS = {"ms": ".2f", "seconds": ".2f", "volumes_per_second": ".1f", "mfu": ".1%", "memory_gb": ".2f"}
"""Formats of columns; other floats have four digits."""


class Measurement:
    """The device, the time limit and the rows of a part."""

    def __init__(self, dry: bool, seconds: float) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.rows: list[Row] = []
        self._end = time.monotonic() + seconds

    def add(self, **row: Any) -> None:
        """Add a row, and print it."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    @property
    def over(self) -> bool:
        """Whether the time is over, so that no new measurement may start."""
        return time.monotonic() > self._end

    def ms(self, work: Callable[[], object], repeats: int = 10, warm_up: int = 3) -> float:
        """Milliseconds of `work`, the median of `repeats`: by CUDA events, or the CPU's clock."""
        repeats, warm_up = (2, 1) if self.dry else (repeats, warm_up)
        for _ in range(warm_up):
            work()
        times: list[float] = []
        for _ in range(repeats):
            with self._timed(times):
                work()
        return sorted(times)[len(times) // 2]

    @contextmanager
    def _timed(self, times: list[float]) -> Iterator[None]:
        if self.device.type == "cpu":
            began = time.perf_counter()
            yield
            times.append(1000 * (time.perf_counter() - began))
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        yield
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))

    def forget(self) -> None:
        """Free the device's cached memory and reset its peak."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def machine(dry: bool) -> Row:
    """The device, and the versions of the packages."""
    facts: Row = {"device": platform.processor() or platform.machine(), "python": platform.python_version()}
    if not dry:
        properties = torch.cuda.get_device_properties(0)
        facts |= {"device": properties.name, "memory_gb": properties.total_memory / 1e9}
        facts |= {"cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    return facts | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "dry": dry}


def run(part: str, out: Path, dry: bool, seconds: float) -> int:
    """Run a part and write OUT/PART.json, with the rows so far if it fails; returns its exit code."""
    measurement = Measurement(dry, seconds)
    error, code = None, 0
    try:
        import_module(f"part_{part}").measure(measurement)
    except ModuleNotFoundError as missing:
        error, code = f"not installed: {missing.name}", 3
    except Exception as failure:
        error, code = f"{type(failure).__name__}: {failure}".splitlines()[0][:300], 1
        import traceback

        traceback.print_exc()
    about = {"part": part, "machine": machine(dry), "rows": measurement.rows, "error": error}
    (out / f"{part}.json").write_text(json.dumps(about, indent=1) + "\n")
    print(error or f"{len(measurement.rows)} rows")
    return code


def table(parts: list[str], out: Path, dry: bool) -> int:
    """Join the parts to gpu.json and gpu.md; returns 1 if one failed or is missing, except for packages."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        file = out / f"{part}.json"
        lost = {"part": part, "rows": [], "error": "no result: killed, or out of time"}
        rows.append(json.loads(file.read_text()) if file.is_file() else lost)
    about = machine(dry)
    (out / "gpu.json").write_text(json.dumps({"machine": about, "parts": rows}, indent=1) + "\n")
    versions = ", ".join(f"{name} {about[name] or 'not installed'}" for name in PACKAGES)
    lines = [f"# {about['device']}", "", f"{about['date']}; Python {about['python']}, {versions}", ""]
    for one in rows:
        lines += [f"## {one['part']}", "", *_markdown(one["rows"])]
        lines += [f"**{one['error']}**", ""] if one["error"] else []
    (out / "gpu.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return int(any(one["error"] and not one["error"].startswith("not installed") for one in rows))


def _markdown(rows: list[Row]) -> list[str]:
    """Markdown tables, one per sequence of rows with equal columns."""
    lines: list[str] = []
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            lines += [""] if lines else []
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines.append("| " + " | ".join(_cell(name, value) for name, value in row.items()) + " |")
    return [*lines, ""]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    return format(value, UNITS.get(name, ".4g")) if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("--parts", nargs="+", default=[], help="of the table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=580.0, help="no new measurement starts after this")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        print("PyTorch finds no GPU; --dry runs at toy size on the CPU", file=sys.stderr)
        return 2
    if given.part == "table":
        return table(given.parts, given.out, given.dry)
    return run(given.part, given.out, given.dry, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
