"""What a report says, apart from how it is written: sections of text, tables and pictures."""

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
    """What a table shows in one place, and what it sorts by."""

    text: str
    value: float | str | None = None
    """Numbers sort by size, texts by alphabet, None last."""
    number: bool = False
    """Set flush right, in figures of one width."""


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
    """Rows under headings; a reader may sort them by any column."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    caption: str
    rows: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Picture:
    """An inline SVG or an <img> with its data: URI; it is left out of Markdown."""

    markup: Markup
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room."""

    pictures: tuple[Picture, ...]
    wide: bool = False
    """One a row."""


@dataclass(frozen=True)
class Code:
    """Text as it is, folded away on a screen."""

    title: str
    text: str


Block = Text | Bullets | Table | Facts | Gallery | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]
    subsections: tuple["Section", ...] = ()

    @property
    def anchor(self) -> str:
        """The id of its heading."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    summary: Facts
    sections: tuple[Section, ...] = field(default=())
    stamp: str = ""
    """A comment at the end of page and card."""

    def html(self) -> str:
        """One page that asks nothing of any network: style, script and pictures stand in it."""
        page = _environment(autoescape=True).get_template("report.html").render(document=self)
        return plain(f"{page.rstrip()}\n{self.stamp}\n")  # Jinja leaves what turns text round

    def markdown(self, page: str) -> str:
        """The same without pictures, which are in the file named `page`."""
        environment = _environment(autoescape=False)
        environment.filters |= {"md": escape, "mdrow": row, "fenced": partial(fenced, language="yaml")}
        text = environment.get_template("report.md").render(document=self, page=page)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + f"\n\n{self.stamp}\n"


def cell(value: str | int | float | None, spec: str = "") -> Cell:
    """A value as a cell: whole numbers with thousands apart, others by a format `spec`; nothing for None."""
    if value is None:
        return Cell("")
    if isinstance(value, str):
        return Cell(value, value)
    return Cell(format(value, spec or ("," if isinstance(value, int) else ".4g")), value, number=True)


def interval(value: float, low: float, high: float, spec: str = ".3f") -> Cell:
    """A figure with its interval, sorted by the figure."""
    return Cell(f"{value:{spec}} [{low:{spec}}, {high:{spec}}]", value, number=True)


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table; every row has a cell for each column."""
    return Table(caption, tuple(columns), tuple(tuple(row) for row in rows))


def facts(caption: str, values: Mapping[str, Cell | str | int | float | None]) -> Facts:
    """Names and values, of those that are known."""
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
