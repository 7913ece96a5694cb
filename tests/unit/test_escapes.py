"""Text from files is escaped on a terminal, in a log, in Markdown and in a spreadsheet."""

import csv
import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

import launch
from launch import markdown
from launch.commands.console import set_up_logging
from launch.report.document import Code, Document, Facts, Section, Text
from launch.screen import plain
from launch.tables import PlainTable, cell
from preprocess.csv_file import write_csv

HOSTILE = (
    "\x1b]0;title\x07\x1b[2J\r\x9b31m",
    "[/red][bold]",
    "[link=file:///x]",
    "\u202egnp.exe",
    "Mueller \udcfc",
    "a\nfmct: b",
)
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_shown_and_not_interpreted(text: str) -> None:
    assert not OBEYED.search(plain(text))
    assert plain(plain(text)) == plain(text)
    for terminal in (True, False):
        written = io.StringIO()
        console = Console(file=written, force_terminal=terminal, color_system=None, width=200)
        table = PlainTable(title="t")
        table.add_column("c")
        table.add_row(text)
        console.print(table)
        console.print(cell(text), soft_wrap=True)
        shown = written.getvalue()
        assert not OBEYED.search(shown)
        assert shown.count(plain(text).split("\n")[0]) == 2
        assert sum("a fmct: b" in line for line in shown.splitlines()) == ("\n" in text)


def test_errors_and_logs_show_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "launch.cli", "shards", "info", str(tmp_path / HOSTILE[0])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, OBEYED.search(result.stderr)) == (2, None)
    assert r"\x1b]0;title\x07" in result.stderr
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logging()
        logging.getLogger("any").warning("quotes %s", HOSTILE[0])
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert r"quotes \x1b]0;title\x07" in capsys.readouterr().err


def test_no_text_closes_a_code_block_in_markdown() -> None:
    text = "a: |\n  ```\n  # A heading\n  ````\n~~~\n\x1b[2J"
    page = Document("t", Facts("f", ()), (Section("s", (Code("c", text),)),)).markdown("p.html")
    (fence,) = set(re.findall(r"^`{5,}", page, re.MULTILINE))
    inside = page.split(f"{fence}yaml\n")[1].split(f"\n{fence}")[0]
    assert inside == plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "~~~",
        "- a",
        "+ a",
        "1. a",
        "12) a",
        "===",
        "---",
        "# a",
        "<b>",
        "a | b",
        "[a](b)",
        "`a`",
        "&lt;",
        "$a$",
    ],
)
def test_markdown_shows_text_verbatim(text: str) -> None:
    """Each special character has a backslash before it (CommonMark 2.4)."""
    page = Document("t", Facts("f", ()), (Section("s", (Text(text),)),)).markdown("p.html")
    line = page.rstrip().splitlines()[-1]
    assert line == markdown.escape(text)
    assert re.sub(r"\\([^\w\s])", r"\1", line) == text
    bare = re.sub(r"\\[^\w\s]", "x", line)
    assert not re.search(r"[`*_{}\[\]<>#|~&$]|^\s*([-+=]|\d+[.)])\s*", bare)


def test_no_text_is_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@a", "\t=a", "\r=a", "＝a", " =a", "a=b", "", None, 'say "=a"']
    table = pa.table({"text": pa.array(texts, pa.string()), "number": pa.array([-1.5] * len(texts))})
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [f"'{text}" for text in texts[:8]] + ["a=b", "", "", 'say "=a"']
    assert {row["number"] for row in rows} == {"-1.5"}


def test_no_text_is_a_formula_with_other_separators(tmp_path: Path) -> None:
    write_csv(pa.table({"text": ["a;=b", "a\t @b", "a;-b;c"]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == '"text"\n"a;\'=b"\n"a\t\' @b"\n"a;\'-b;c"\n'


def test_every_command_prints_through_the_escaping_console() -> None:
    package = Path(launch.__file__).parent
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        found = re.search(r"typer\.echo\(|rich\.table|(?<![.\w])(?<!def )print\(|csv\.writer", text)
        assert path.name in ("screen.py", "tables.py") or not found, path


def test_pages_warnings_and_tracebacks_show_control_characters() -> None:
    page = Document("t", Facts("f", ()), (Section("s", (Text(HOSTILE[0] + HOSTILE[3]),)),)).html()
    assert not OBEYED.search(page)
    code = (
        "import warnings; from launch.commands.console import set_up_logging; set_up_logging()\n"
        f"warnings.warn({HOSTILE[0]!r}); raise ValueError({HOSTILE[0]!r})"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, OBEYED.search(result.stderr)) == (1, None)
    assert result.stderr.count(r"\x1b]0;title\x07") >= 2
    assert "Traceback" in result.stderr
