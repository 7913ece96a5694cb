"""Tables for a terminal, with control characters in text from files escaped."""

from typing import Any

from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from launch.screen import plain


def cell(text: object, style: str | Style = "") -> Text:
    """Text for a table or a console of Rich, which would interpret brackets in a `str` as markup."""
    return Text(plain(text), style=style)


class PlainTable(Table):
    """A table whose rows are plain text, without markup and line feeds."""

    def add_row(self, *renderables: RenderableType | None, **options: Any) -> None:
        """As `Table.add_row`; a `str` is shown literally."""
        cells = [cell(" ".join(c.split("\n"))) if isinstance(c, str) else c for c in renderables]
        super().add_row(*cells, **options)
