"""The terms by which headers describe an image: a data table, which a site can extend in its recipe.

preprocess/select/terms.csv has the columns of `Term`. preprocess.select.lexicon describes the matching.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError, field_validator, model_validator

from preprocess.anatomy.registry import ANATOMIES
from preprocess.csv_file import csv_lines
from shards.closed import Closed
from shards.errors import FmctError

MEANINGS = {
    "contrast": ("plain", "enhanced", "vessels"),
    "negation": ("before", "after", "alone", "lifts", "with"),
    "agent": ("none", "filler", "oral", "vein", "name"),
    "body": (*ANATOMIES, "other", "neck"),
    "part": ("part",),
    "kernel": ("soft", "bone"),
    "phantom": ("phantom",),
    "image": ("localizer", "dose_report", "dynamic", "derived", "spectral", "monoenergetic"),
    "neutral": ("neutral", "object"),
}
"""The kinds of terms, and what a term of each can mean.

contrast: a plain image; an image with an agent in the vessels, to which a negation gives the meaning of
column `negation`; or an examination of vessels, which a word for plain overrides. negation: applies to what
follows; to what precedes; also without an object ("without"); ends a negation ("after"); or ends one and
means enhanced at the end of a text ("with"). agent: an entry of Contrast/Bolus Agent, Route and the like in
place of an agent's name, or the name. body: the body part (preprocess.anatomy), another one, or the neck,
which is examined with the head so often that only series texts count. part: a part of the head. kernel: the
sharpness. image: an image that is no acquired slice (image_kind.py). neutral: no information; for an object
("tilt"), also after a negation.
"""


class Term(Closed):
    """A row of the table."""

    language: str = ""
    """ISO 639-1."""
    kind: str
    term: str
    """Words, ignoring case and accents; see preprocess.select.lexicon."""
    meaning: str
    negation: str = ""
    """Its meaning after a negation; empty if negation does not change it."""
    source: str = ""
    """Source of the term: 0.1.0's patterns, a part of the DICOM standard, an issue, or usage by radiologists
    in that language."""

    @field_validator("term")
    @classmethod
    def _has_letters(cls, term: str) -> str:
        if not any(letter.isalnum() for letter in term):
            raise ValueError("expected a term with at least one letter or digit")
        if "*" in term[1:-1]:
            raise ValueError("expected * only at the start or the end of a term")
        return term

    @model_validator(mode="after")
    def _known(self) -> "Term":
        if self.kind not in MEANINGS:
            raise ValueError(f"kind {self.kind!r} is unknown; expected one of {', '.join(MEANINGS)}")
        known = MEANINGS[self.kind]
        for meaning in (self.meaning, self.negation or self.meaning):
            if meaning not in known:
                expected = ", ".join(known)
                raise ValueError(f"{meaning!r} is not a meaning of {self.kind}; expected one of {expected}")
        return self


@cache
def builtin_terms() -> tuple[Term, ...]:
    """The built-in table."""
    return read_terms(Path(__file__).with_name("terms.csv"))


def read_terms(path: Path) -> tuple[Term, ...]:
    """Read a CSV (UTF-8) whose columns are fields of `Term`; kind, term and meaning are required.

    Raises FmctError that names file and row for anything else.
    """
    wanted = [*Term.model_fields]
    lines = csv_lines(path, f"a table of terms is a CSV of {', '.join(wanted)}")
    header = [name.strip() for name in next(lines, (0, []))[1]]
    if not {"kind", "term", "meaning"} <= {*header} <= {*wanted} or len({*header}) < len(header):
        raise FmctError(f"{path}: the columns are {', '.join(header)}; expected {', '.join(wanted)}")
    return tuple(_term(path, line, header, cells) for line, cells in lines if any(cells))


def _term(path: Path, line: int, header: list[str], cells: list[str]) -> Term:
    if len(cells) != len(header):
        raise FmctError(f"{path} row {line}: {len(cells)} cells, the header has {len(header)}; correct it")
    try:
        return Term(**dict(zip(header, map(str.strip, cells), strict=True)))
    except ValidationError as error:
        first = error.errors()[0]
        column = "".join(f"{name}: " for name in first["loc"])
        raise FmctError(f"{path} row {line}: {column}{first['msg'].removeprefix('Value error, ')}") from None


def _from_path(value: Any) -> Any:
    return read_terms(Path(value)) if isinstance(value, str | Path) else value


Terms = Annotated[tuple[Term, ...], BeforeValidator(_from_path)]
"""A site's terms: a list in the recipe, or the path of a CSV, relative to the working directory."""
