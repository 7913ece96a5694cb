"""Markers of tests follow from their durations."""

import tomllib
from pathlib import Path

import pytest
from documents import DOCUMENTS, REPOSITORY, commands
from durations import FAST_FILES, SLOW_FILE, SLOW_TEST, Durations, main

REPORT = """<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_one[x]" time="1.5"/>
<testcase classname="tests.unit.test_a" name="test_one[y]" time="30"/>
<testcase classname="tests.unit.test_b" name="test_two" time="2"/>
</testsuite></testsuites>"""


def test_the_shortest_files_are_fast_until_their_time_is_spent() -> None:
    files = {f"unit/test_{number}.py": FAST_FILES / 4 for number in range(6)}
    durations = Durations(
        {**files, "integration/test_x.py": 0.1, "numerics/test_x.py": 0.1, "unit/test_9.py::t": 0.1}
    )
    assert durations.fast == {"numerics/test_x.py", *list(files)[:3]}


def test_long_tests_are_slow_and_all_of_a_long_file() -> None:
    durations = Durations(
        {"a/test_x.py": SLOW_FILE, "a/test_y.py": SLOW_TEST + 1, "a/test_y.py::test_1": SLOW_TEST}
    )
    assert [durations.is_slow("a/test_x.py", "test_1"), durations.is_slow("a/test_y.py", "test_1")] == [
        True,
        True,
    ]
    assert not durations.is_slow("a/test_y.py", "test_2")
    assert not durations.is_slow("a/test_new.py", "test_1")


def test_a_report_updates_the_durations_of_its_files_only(tmp_path: Path) -> None:
    table, report = tmp_path / "durations.tsv", tmp_path / "junit.xml"
    table.write_text("unit/test_a.py\t99.0\nunit/test_a.py::test_old\t40.0\nunit/test_c.py\t3.0\n")
    report.write_text(REPORT)
    main(report, table)
    assert Durations.read(table).seconds == {
        "unit/test_a.py": 31.5,
        "unit/test_a.py::test_one": 30.0,
        "unit/test_b.py": 2.0,
        "unit/test_c.py": 3.0,
    }


def test_the_table_has_fast_files_of_most_parts() -> None:
    durations = Durations.read()
    assert len(durations.fast) > 60
    total = sum(durations.seconds[file] for file in durations.fast)
    assert round(total, 1) <= FAST_FILES  # the table has tenths


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_marks_named_in_documents_exist(document: Path) -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    marks = {text.split(":")[0] for text in settings["markers"]}
    assert marks == {"fast", "slow", "slurm"}
    for command in commands(document):
        if command.words[0] == "pytest" and "-m" in command.words:
            expression = command.words[command.words.index("-m") + 1]
            assert set(expression.split()) <= {*marks, "not", "and", "or"}, command
