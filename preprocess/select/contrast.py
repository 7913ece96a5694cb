"""Whether an image has a contrast agent in the vessels, by its description or the agent's fields."""

import re
from collections.abc import Iterable

from preprocess.dicom.catalog import Texts
from preprocess.select.lexicon import Hit, Lexicon, folded

GOVERNED_WORDS = 3
"""So many words may stand between a negation and what it negates: "no oral or iv contrast"."""


def has_contrast(texts: Texts, lexicon: Lexicon) -> bool | None:
    """Whether an agent is stated, by Series Description (0008,103E) and the Contrast/Bolus attributes.

    None if neither states it. The description comes first, because some scanners write the agent into every
    series of an examination, its plain scan included; a description of an enhanced image stands against a
    field that says that no agent was given. Study and protocol say nothing of one series: the plain scan of
    an angiography is the one that is wanted.
    """
    described = _described(texts.series_description, lexicon)
    return _given(texts, lexicon) if described is None else described


def any_contrast(said: Iterable[Texts], lexicon: Lexicon) -> bool | None:
    """`has_contrast` of images of one series: an agent that some of them state counts for the others too.

    It was given between them, or was written into some headers only.
    """
    found = {has_contrast(texts, lexicon) for texts in said}
    return True if True in found else None if None in found else False


def _described(text: str, lexicon: Lexicon) -> bool | None:
    """What a description says. Of both, plain and enhanced, enhanced: it is of both, or of the later one.

    A word for an examination of vessels alone, as "CTA", is outweighed by one for plain.
    """
    found = _meanings(folded(text), lexicon.hits(text))
    if "enhanced" in found:
        return True
    return False if "plain" in found else True if "vessels" in found else None


def _meanings(text: str, hits: Iterable[Hit]) -> set[str]:
    """What the words for contrast in a folded text mean, with the negations that govern them."""
    found: list[str] = []
    governor: Hit | None = None
    idle = False  # has the governor nothing to govern yet?
    mention: Hit | None = None
    for hit in (hit for hit in hits if hit.kind in ("contrast", "negation")):
        if hit.kind == "negation":
            if mention and _follows(text, mention, hit):
                found[-1] = mention.negation
            elif hit.meaning != "after":
                found += ["plain"] * (idle and governor is not None and governor.meaning == "alone")
                governor, idle = hit, True
            mention = None
            continue
        negated = bool(hit.negation and governor and _governs(text, governor, hit))
        found.append(hit.negation if negated else hit.meaning)
        mention = None if negated or not hit.negation else hit
        if negated:
            governor = Hit(governor.start, hit.end, *governor[2:]) if governor else None
            idle = False
    if idle and governor and governor.meaning == "alone":
        found.append("plain")
    return {*found}


def _governs(text: str, governor: Hit, hit: Hit) -> bool:
    """Whether a negation applies to a word after it."""
    between = text[governor.end : hit.start]
    most = 0 if governor.spaceless else GOVERNED_WORDS
    return (
        governor.meaning in ("before", "alone")
        and not re.search(r"[,;()+]", between)
        and len(re.findall(r"\w+", between)) <= most
    )


def _follows(text: str, mention: Hit, hit: Hit) -> bool:
    """Whether a negation follows the word that it negates: "contrast: none"."""
    between, rest = text[mention.end : hit.start], text[hit.end :]
    if re.search(r"\w", between) or hit.meaning == "lifts":
        return False
    return hit.meaning == "after" or bool(re.search("[:=]", between)) or not re.search(r"[^\W\d]", rest)


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
    """What an agent's field says: none, nothing ("filler"), oral, vein, or else "given": an agent's name."""
    letters = re.findall(r"[^\W_]", text)
    if not letters:
        return "filler" if not text.strip() else "none"
    found = lexicon.meanings(text, "agent")
    if "none" in found or not {*letters} - {"0"} or _meanings(folded(text), lexicon.hits(text)) == {"plain"}:
        return "none"
    if "filler" in found:
        return "filler"
    return "vein" if "vein" in found else "oral" if "oral" in found else "given"
