"""`tests/bench/run.py` replaces the tables of the benchmarks it runs, and no others."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from run import BLOCK, DOCUMENT, HERE, main

OTHER = "<!-- table 1 of: bench_scan.py -->\nkept\n<!-- end -->\n"
OLD = "<!-- table 2 of: bench_order.py --tiny -->\nold\n<!-- end -->\n"


def test_the_tables_of_what_ran_are_replaced(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    first = OLD.replace("table 2", "table 1")
    document.write_text(f"# Title\n{OTHER}\ntext\n{first}after\n")
    main(["order", "--document", str(document)])
    text = document.read_text()
    assert text.startswith(f"# Title\n{OTHER}\ntext\n<!-- table 1 of: bench_order.py --tiny -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert len(re.findall(r"^\| \d+ \| \d+ \| (?:lanes|plain) \|", text, re.MULTILINE)) == 8
    assert re.search(r"^Measured \d+ \w+ \d{4}, [0-9a-f]{7}.* cores under .*; Python .*numpy \d", text, re.M)


@pytest.mark.parametrize("name", ["order", "unheard"])
def test_benchmarks_that_do_not_match_the_document_are_refused(tmp_path: Path, name: str) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(OLD)  # which prints one table only
    with pytest.raises(SystemExit):
        main([name, "--document", str(document)])
    assert document.read_text() == OLD


def test_the_document_names_existing_benchmarks() -> None:
    blocks = BLOCK.findall(DOCUMENT.read_text())
    assert len(blocks) > 10
    assert all((HERE / command.split()[0]).is_file() for _, _, command, _ in blocks)
    assert len({(command, number) for _, number, command, _ in blocks}) == len(blocks)
