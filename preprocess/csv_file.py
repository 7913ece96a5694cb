"""Reading a CSV as people make them: UTF-8, with or without a byte order mark."""

import csv
from collections.abc import Iterator
from pathlib import Path

from shards.errors import FmctError, raise_refusal


def csv_lines(path: Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line, the header among them; `wanted` says what the file should be.

    Raises FmctError where there is no such file or it is not readable.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                yield reader.line_num, cells
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file; {wanted}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise_refusal(error, path)
        raise FmctError(
            f"{path}: not readable as UTF-8 CSV ({type(error).__name__}); save it as such"
        ) from None
