"""Whether an image has a contrast agent in the vessels, by its description or the agent's fields."""

import re
from collections.abc import Iterable, Sequence

from preprocess.dicom.catalog import Texts
from preprocess.select.lexicon import Hit, Lexicon, folded

GOVERNED_WORDS = 4
"""Most words between a negation and its object: "without the injection of any contrast"."""
_ABSENT = re.compile(r"\s*\(\s*-\s*\)|-$")
"""A minus after a word for contrast negates it; elsewhere it is a hyphen or a dash."""
_NEXT_WORD = re.compile(r"[^\w,;()+]*([^\W\d_]+)(?!\w)")
_REST = re.compile(r"\w*")
_MASKS = re.compile("[*?#]")
"""Characters that de-identification and typists write in place of letters."""
_NO_VOLUME = re.compile(r"0+([.,]0+)?\s*(ml|cc|g|mg)?", re.IGNORECASE)


def has_contrast(texts: Texts, lexicon: Lexicon) -> bool | None:
    """Whether a contrast agent is stated, by Series Description (0008,103E) and Contrast/Bolus attributes.

    None if neither states it. The description takes precedence, because some scanners write the agent into
    every series of an examination, including the plain scan; a description of an enhanced image also
    overrides a field that states no agent. Study and protocol are ignored, because they do not describe one
    series: the plain scan of an angiography is the wanted one.
    """
    described = _described(texts.series_description, lexicon)
    return _given(texts, lexicon) if described is None else described


def any_contrast(distinct: Iterable[Texts], lexicon: Lexicon) -> bool | None:
    """`has_contrast` for the images of one series: an agent stated by some images counts for all.

    It was given during the series, or was written into some headers only.
    """
    contrasts = {has_contrast(texts, lexicon) for texts in distinct}
    return True if True in contrasts else None if None in contrasts else False


def _described(text: str, lexicon: Lexicon) -> bool | None:
    """The contrast stated by a description; enhanced if it states both plain and enhanced.

    A word for an examination of vessels alone, such as "CTA", is overridden by a word for plain.
    """
    meanings = _meanings(folded(text), lexicon.hits(text))
    if "enhanced" in meanings:
        return True
    return False if "plain" in meanings else True if "vessels" in meanings else None


def _meanings(text: str, hits: Sequence[Hit]) -> set[str]:
    """The meanings of the words for contrast in a folded text, with the negations that govern them."""
    meanings: list[str] = []
    governor: Hit | None = None
    idle = False  # the governor has no object yet
    mention: Hit | None = None
    for hit in hits:
        if hit.kind == "negation":
            if mention and _follows(text, mention, hit):
                meanings[-1] = mention.negation
            elif hit.meaning != "after":
                meanings += _alone(text, governor, hits, hit) if idle and governor else []
                governor, idle = hit, True
            mention = None
        elif hit.kind == "contrast":
            governed = bool(governor and _governs(text, governor, hit, hits))
            negated = bool(hit.negation) and (governed or bool(_ABSENT.match(text, _word_end(text, hit))))
            meanings.append(hit.negation if negated else hit.meaning)
            mention = None if negated or not hit.negation else hit
            if governor and governed and hit.negation:
                governor = Hit(governor.start, hit.end, *governor[2:])
                idle = False
    return {*meanings, *(_alone(text, governor, hits) if idle and governor else [])}


def _alone(text: str, governor: Hit, hits: Sequence[Hit], after: Hit | None = None) -> list[str]:
    """The meanings of a negation that governs no word for contrast before the next negation."""
    if any(hit.kind == "contrast" and hit.start <= governor.start < hit.end for hit in hits):
        return []
    if after and {governor.meaning, after.meaning} == {"alone", "with"}:
        joined = re.fullmatch(r"\W*\w{0,3}\W*", text[governor.end : after.start])
        return ["enhanced"] if joined and not _has_object(text, after, hits) else []
    if governor.meaning == "with":
        return [] if re.search(r"\w", text[governor.end :]) else ["enhanced"]
    return ["plain"] if governor.meaning == "alone" and not _has_object(text, governor, hits) else []


def _has_object(text: str, negation: Hit, hits: Sequence[Hit]) -> bool:
    """Whether the next word is not about the image or the body: "without tilt", "ohne Prothese"."""
    word = _NEXT_WORD.match(text, negation.end)
    return bool(word) and all(hit.meaning == "object" for hit in _within(word, hits))


def _within(word: re.Match[str] | None, hits: Sequence[Hit]) -> list[Hit]:
    """The terms that start in a word."""
    return [hit for hit in hits if word and word.start(1) <= hit.start < word.end(1)]


def _governs(text: str, governor: Hit, hit: Hit, hits: Sequence[Hit]) -> bool:
    """Whether a negation applies to a word after it, and not to another: "non trauma head contrast"."""
    between = text[governor.end : hit.start]
    limit = 0 if governor.spaceless else GOVERNED_WORDS
    if governor.meaning == "before":
        others = _within(_NEXT_WORD.match(text, governor.end), hits)
        if any(other.kind in ("body", "part", "neutral") and other.end <= hit.start for other in others):
            return False
    return (
        governor.meaning in ("before", "alone")
        and not re.search(r"[,;()+]", between)
        and len(re.findall(r"\w+", between)) <= limit
    )


def _follows(text: str, mention: Hit, hit: Hit) -> bool:
    """Whether a negation follows the word that it negates: "contrast: none"."""
    between, rest = text[_word_end(text, mention) : hit.start], text[hit.end :]
    if re.search(r"\w", between) or hit.meaning in ("lifts", "with"):
        return False
    return hit.meaning == "after" or bool(re.search("[:=]", between)) or not re.search(r"[^\W\d]", rest)


def _word_end(text: str, hit: Hit) -> int:
    """The end of the word of a term, including the part matched by `*`."""
    return hit.end if hit.spaceless else _REST.match(text, hit.end).end()  # type: ignore[union-attr]


def _given(texts: Texts, lexicon: Lexicon) -> bool | None:
    """Whether an agent was given into the vessels, by (0018,0010), (0018,1048), (0018,1041), (0018,1040)."""
    named = [_named(text, lexicon) for text in (texts.contrast, texts.contrast_ingredient)]
    route = _named(texts.contrast_route, lexicon)
    if "vein" in named or ("given" in named and route != "oral"):
        return True
    if "none" in named:
        return False
    if "oral" in (*named, route):
        return None
    return True if (texts.contrast_volume or 0) > 0 or route in ("vein", "given") else None


def _named(text: str, lexicon: Lexicon) -> str:
    """The meaning of an agent field: none, "filler", oral, vein, or "given" for an agent's name."""
    if not re.search(r"[^\W_]", text):
        return "none" if re.search(r"[-./]", text) and not _MASKS.search(text) else "filler"
    meanings = lexicon.meanings(text, "agent")
    if "none" in meanings or _NO_VOLUME.fullmatch(text.strip()):
        return "none"
    if "filler" not in meanings and _meanings(folded(text), lexicon.hits(text)) == {"plain"}:
        return "none"
    if "filler" in meanings:
        return "filler"
    return "vein" if "vein" in meanings else "oral" if "oral" in meanings else "given"
