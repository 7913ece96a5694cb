"""The contents of a report, independent of its format: sections of text, tables and pictures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import jinja2
from markupsafe import Markup

from launch.markdown import escape, fenced, row
from launch.screen import plain


@dataclass(frozen=True)
class Cell:
    """A table cell: the displayed text, and the value to sort by."""

    text: str
    value: float | str | None = None
    """Numbers are sorted by size, text alphabetically, None last."""
    number: bool = False
    """Whether to align right, with tabular figures."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows with column headings, sortable by any column on the page."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    caption: str
    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Picture:
    """An inline SVG or an <img> with a data: URI; omitted in Markdown."""

    markup: Markup
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures, side by side if there is room."""

    pictures: tuple[Picture, ...]
    wide: bool = False
    """One per row."""


@dataclass(frozen=True)
class Code:
    """Preformatted text, collapsed on the page."""

    title: str
    text: str


Block = Text | Bullets | Table | Facts | Gallery | Code


@dataclass(frozen=True)
class Section:
    """A heading and its contents."""

    title: str
    blocks: tuple[Block, ...]
    subsections: tuple["Section", ...] = ()

    @property
    def anchor(self) -> str:
        """The id of the heading."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    summary: Facts
    sections: tuple[Section, ...] = field(default=())
    stamp: str = ""
    """A comment at the end of the page and the card."""

    def html(self) -> str:
        """A self-contained page: style, script and pictures are embedded, nothing is loaded."""
        page = _environment(autoescape=True).get_template("report.html").render(document=self)
        return plain(f"{page.rstrip()}\n{self.stamp}\n")  # Jinja does not escape bidirectional controls

    def markdown(self, page: str) -> str:
        """The same without pictures, with a link to the file named `page`."""
        environment = _environment(autoescape=False)
        environment.filters |= {"md": escape, "mdrow": row, "fenced": partial(fenced, language="yaml")}
        text = environment.get_template("report.md").render(document=self, page=page)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + f"\n\n{self.stamp}\n"


def cell(value: str | int | float | None, spec: str = "") -> Cell:
    """A value as a cell: integers with thousands separators, others by the format `spec`; empty for None."""
    if value is None:
        return Cell("")
    if isinstance(value, str):
        return Cell(value, value)
    return Cell(format(value, spec or ("," if isinstance(value, int) else ".4g")), value, number=True)


def interval(value: float, low: float, high: float, spec: str = "z.3f") -> Cell:
    """A figure with its interval, sorted by the figure; by default no zero has a sign."""
    return Cell(f"{value:{spec}} [{low:{spec}}, {high:{spec}}]", value, number=True)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table; every row has one cell per column."""
    return Table(caption, tuple(columns), tuple(tuple(row) for row in rows))


def facts(caption: str, values: Mapping[str, Cell | str | int | float | None]) -> Facts:
    """Names and values, without those that are None."""
    rows = ((name, v if isinstance(v, Cell) else cell(v)) for name, v in values.items() if v is not None)
    return Facts(caption, tuple(rows))


def _environment(autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("launch", "templates"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
