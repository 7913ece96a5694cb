"""Durations of tests, which determine the markers `fast` and `slow` and the order of the files.

pytest --junitxml=junit.xml; python tests/durations.py junit.xml    # updates the tests of that run
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

TABLE = Path(__file__).with_name("durations.tsv")
SLOW_TEST, SLOW_FILE = 20.0, 60.0
"""Seconds from which a test, or all tests of a file, are slow: in a slow file they share fixtures."""
FAST_FILES = 50.0
"""Total seconds of the fast files; with their imports under two minutes."""


class Durations:
    """Seconds by file (`unit/test_plan.py`) and, of slow tests, by name (`unit/test_plan.py::test_name`)."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)
        self.fast: set[str] = set()
        """The shortest measured files of tests/unit and tests/numerics."""
        total = 0.0
        for file, took in sorted(self.seconds.items(), key=lambda row: (row[1], row[0])):
            if file.endswith(".py") and not file.startswith("integration/"):
                total += took
                if total <= FAST_FILES:
                    self.fast.add(file)

    @classmethod
    def read(cls, table: Path = TABLE) -> "Durations":
        rows = (line.split("\t") for line in table.read_text().splitlines())
        return cls({name: float(took) for name, took in rows})

    def is_slow(self, file: str, function: str) -> bool:
        """Whether the test takes `SLOW_TEST`, or its file `SLOW_FILE`."""
        return f"{file}::{function}" in self.seconds or self.seconds.get(file, 0) >= SLOW_FILE

    def with_report(self, report: ElementTree.Element) -> "Durations":
        """These durations, updated for the files in a JUnit report."""
        files: dict[str, float] = defaultdict(float)
        tests: dict[str, float] = defaultdict(float)
        for case in report.iter("testcase"):
            _, folder, module, *_ = case.attrib["classname"].split(".")
            file, took = f"{folder}/{module}.py", float(case.attrib["time"])
            name = f"{file}::{case.attrib['name'].partition('[')[0]}"
            files[file] += took
            tests[name] = max(tests[name], took)
        kept = {name: took for name, took in self.seconds.items() if name.partition("::")[0] not in files}
        slow = {name: took for name, took in tests.items() if took >= SLOW_TEST}
        return Durations({**kept, **files, **slow})

    def write(self, table: Path = TABLE) -> None:
        table.write_text("".join(f"{name}\t{took:.1f}\n" for name, took in sorted(self.seconds.items())))


def main(report: Path, table: Path = TABLE) -> None:
    known = Durations.read(table) if table.exists() else Durations({})
    known.with_report(ElementTree.parse(report).getroot()).write(table)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
