"""The examples of each "How to add ..." in docs/architecture.md are short, and so are all Python files."""

import re
import statistics

from documents import REPOSITORY, blocks

DOCUMENT = REPOSITORY / "docs/architecture.md"
LINES = 60
"""Upper limit of a recipe's lines: non-empty lines of its new file, and lines added by its diffs."""
PACKAGES = ("shards", "preprocess", "fmct_hpc", "launch")


def test_every_recipe_takes_less_than_sixty_lines() -> None:
    headings = re.findall("^## (How to add .*)$", DOCUMENT.read_text(), re.MULTILINE)
    counts = {}
    for heading in headings:
        files = [block.splitlines()[1:] for block in blocks(DOCUMENT, "python", heading)]
        diffs = [line for block in blocks(DOCUMENT, "diff", heading) for line in block.splitlines()]
        added = sum(line.startswith("+") for line in diffs)
        counts[heading] = sum(bool(line.strip()) for file in files for line in file) + added
    counts.pop("How to add a site")  # a YAML file
    assert min(counts.values()) > 0, counts
    assert max(counts.values()) < LINES, counts


def test_files_are_short() -> None:
    folders = {folder: (REPOSITORY / folder).rglob("*.py") for folder in (*PACKAGES, "tests")}
    lines = {
        path: (folder, len(path.read_text().splitlines())) for folder in folders for path in folders[folder]
    }
    assert statistics.median(count for folder, count in lines.values() if folder != "tests") < 115
    longest = max(lines, key=lambda path: lines[path][1])
    assert lines[longest][1] <= 400, longest
