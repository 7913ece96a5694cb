"""Tables for a terminal, of text from files that is shown there and never obeyed."""

from typing import Any

from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from launch.screen import plain


def cell(text: object, style: str | Style = "") -> Text:
    """Text for a table or a console of Rich, which takes brackets in a `str` for its markup."""
    return Text(plain(text), style=style)


class PlainTable(Table):
    """A table whose rows are text: no markup, no line feeds."""

    def add_row(self, *renderables: RenderableType | None, **options: Any) -> None:
        """As `Table.add_row`; a `str` is shown as it is."""
        cells = [cell(" ".join(c.split("\n"))) if isinstance(c, str) else c for c in renderables]
        super().add_row(*cells, **options)
