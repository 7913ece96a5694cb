r"""Matching terms in header texts by whole words, ignoring case, accents and punctuation.

A folded term is matched at word borders; a `*` at its start or end allows a longer word. A space in a term
matches any mark or space between words, such as `_`, `-` or `:`. `^` and `$` anchor it to the text's ends. A
plus, minus or slash is matched literally, so that `c+` and `c-` are two terms. Terms in scripts without
spaces (Chinese, Japanese, and Korean, which joins its particles) are matched anywhere, ignoring inner spaces.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from preprocess.anatomy.head import HEAD
from preprocess.anatomy.profile import Anatomy
from preprocess.anatomy.registry import ANATOMIES, AnatomyName
from preprocess.select.terms import Term, builtin_terms

_LETTER = re.compile("[a-z\u00df-\u024f\u0370-\u052f]")
"""Latin, Greek and Cyrillic: the letters of folded words."""
_SPACELESS = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
"""Chinese characters, kana and Hangul."""
_MARKS = re.compile("[\u0300-\u036f]")
_HUMP = re.compile("(?<=[a-z\u00df-\u00ff])(?=[A-Z\u00c0-\u00de])")
_PLAIN = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "_": " "})
_PLAIN |= dict.fromkeys(map(ord, "\u2010\u2012\u2013\u2014\u2212"), "-")
_GAPS = {False: re.compile(r"\s*/\s*|[\s.:,;=-]+"), True: re.compile(r"\s*/\s*|[\s.:,;=]+")}
"""Separators between words: a slash, which is kept, or a space; a minus is kept if terms contain one."""
_BRACKETS = " ()[],;"
_YIELDS = {
    "contrast": ("contrast", "image", "neutral"),
    "negation": ("negation", "image", "neutral", "body"),
    "kernel": ("kernel", "part"),
    "body": ("body", "neutral"),
    "part": ("part", "neutral"),
}
"""A term of a kind does not count within a longer one of these: neither "contrast" nor "non" within "virtual
non-contrast", nor "bone" within "temporal bone", nor "chest" within "Rochester"."""


class Hit(NamedTuple):
    """A term in a text."""

    start: int
    """Its range in the folded text, without the part matched by `*`."""
    end: int
    kind: str
    meaning: str
    negation: str
    spaceless: bool
    """Whether its script has no spaces."""


def folded(text: str) -> str:
    """`text` in lower case without accents, with underscores and CamelCase replaced by spaces."""
    if not text.isascii():
        text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
    text = _HUMP.sub(" ", text).casefold().translate(_PLAIN)
    return text if text.isascii() else unicodedata.normalize("NFC", _MARKS.sub("", text))


class Lexicon:
    """A table of terms, indexed for matching."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self._entries: dict[bool, dict[str, list[_Entry]]] = {False: {}, True: {}}
        """By whether the term has a minus, and by its canonical letters."""
        for term in terms:
            entry = _Entry.of(term)
            entries = self._entries["-" in entry.letters].setdefault(entry.letters, [])
            if entry not in entries:
                entries.append(entry)
        self._lengths = {signs: _lengths(entries) for signs, entries in self._entries.items()}
        self.hits = lru_cache(maxsize=2**16)(self._hits)
        """The terms in a text, in text order; cached, since an archive has few different texts."""
        self.meanings = lru_cache(maxsize=2**16)(self._meanings)
        """The meanings of the terms of a kind in a text."""

    def _hits(self, text: str) -> tuple[Hit, ...]:
        text = folded(text)
        hits = {hit for signs in (False, True) for hit in self._matches(text, signs)}
        return tuple(sorted(hit for hit in hits if not _within_another(hit, hits)))

    def _matches(self, text: str, signs: bool) -> Iterator[Hit]:
        canonical, places = _canonical(text, signs)
        entries, lengths = self._entries[signs], self._lengths[signs]
        for start, first in enumerate(canonical):
            for length in lengths.get(first, ()):
                for entry in entries.get(canonical[start : start + length], ()):
                    if len(entry.letters) == length and entry.fits(canonical, start):
                        last = start + length - (canonical[start + length - 1] != "/")
                        end = places[last] + (last < start + length)
                        yield Hit(places[start], end, *entry.meaning_of)

    def _meanings(self, text: str, kind: str) -> frozenset[str]:
        return frozenset(hit.meaning for hit in self.hits(text) if hit.kind == kind)

    def names_only_a_part(self, text: str) -> bool:
        """Whether it names a part of the head, and the head nowhere else ("skull base")."""
        hits = self.hits(text)
        parts = [hit for hit in hits if hit.kind == "part"]
        bodies = [hit for hit in hits if hit.kind == "body"]
        return bool(parts) and all(
            any(part.start <= body.start and body.end <= part.end for part in parts) for body in bodies
        )

    def understands(self, text: str) -> bool:
        """Whether it contains a term, or no letter at all."""
        return bool(self.hits(text)) or not any(map(str.isalpha, text))


@lru_cache(maxsize=64)
def lexicon(more: tuple[Term, ...] = (), anatomy: AnatomyName = HEAD.name) -> Lexicon:
    """The built-in table with a site's terms; body-part terms are interpreted by `anatomy`."""
    return Lexicon(_read(term, ANATOMIES[anatomy]) for term in (*builtin_terms(), *more))


def _read(term: Term, anatomy: Anatomy) -> Term:
    if term.kind not in ("body", "part"):
        return term
    kind, meaning = anatomy.reads(term.kind, term.term, term.meaning)
    return term.model_copy(update={"kind": kind, "meaning": meaning})


class _Entry(NamedTuple):
    """A term prepared for matching."""

    letters: str
    begins: str
    """Allowed start: "^" at the text's start, "*" anywhere, else "" at a word's start."""
    ends: str
    """Allowed end: "$" at the text's end, "*" anywhere, else "" at a word's end."""
    meaning_of: tuple[str, str, str, bool]
    """The fields of `Hit` from `kind` on."""

    @classmethod
    def of(cls, term: Term) -> "_Entry":
        bare = term.term.strip("^$*")
        letters = _GAPS["-" in bare].sub(_between, folded(bare).strip())
        begins = term.term[0] if term.term[0] in "^*" else "*" * bool(_SPACELESS.match(letters))
        ends = term.term[-1] if term.term[-1] in "$*" else "*" * bool(_SPACELESS.match(letters[-1]))
        spaceless = bool(_SPACELESS.search(letters))
        return cls(letters, begins, ends, (term.kind, term.meaning, term.negation, spaceless))

    def fits(self, text: str, start: int) -> bool:
        """Whether it matches at `start` of a canonical text that has its letters there."""
        end = start + len(self.letters)
        return _borders(self.begins, "^", text[:start][::-1], self.letters[0]) and _borders(
            self.ends, "$", text[end:], self.letters[-1]
        )


def _borders(rule: str, bound: str, beyond: str, edge: str) -> bool:
    """Whether a term's `edge` may be next to the text `beyond` it."""
    if rule == "*" or not beyond:
        return True
    if rule == bound:
        return not any(map(str.isalnum, beyond))
    if edge.isalnum() or edge == "/":
        return not _LETTER.match(beyond)
    return beyond[0] in _BRACKETS


def _lengths(entries: Iterable[str]) -> dict[str, list[int]]:
    """The lengths of the entries by first letter."""
    by_first: dict[str, set[int]] = {}
    for letters in entries:
        by_first.setdefault(letters[0], set()).add(len(letters))
    return {first: sorted(lengths) for first, lengths in by_first.items()}


def _canonical(text: str, signs: bool) -> tuple[str, list[int]]:
    """A folded text with single spaces between words, and the position of each letter in the folded text."""
    letters: list[str] = []
    places: list[int] = []
    done = 0
    for gap in _GAPS[signs].finditer(text):
        mark = _between(gap)
        letters += [text[done : gap.start()], mark]
        places += range(done, gap.start() + len(mark))
        done = gap.end()
    letters.append(text[done:])
    return "".join(letters), [*places, *range(done, len(text) + 1)]


def _between(gap: re.Match[str]) -> str:
    """The single mark that replaces a gap: empty within a script without spaces."""
    if "/" in gap[0]:
        return "/"
    beside = gap.string[gap.start() - 1 : gap.start()], gap.string[gap.end() : gap.end() + 1]
    return "" if all(map(_SPACELESS.match, beside)) else " "


def _within_another(hit: Hit, hits: Iterable[Hit]) -> bool:
    stronger = _YIELDS.get(hit.kind, (hit.kind,))
    return any(
        other.start <= hit.start and hit.end <= other.end and other[:2] != hit[:2]
        for other in hits
        if other.kind in stronger
    )
