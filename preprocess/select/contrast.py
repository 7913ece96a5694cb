"""Was a series taken with a contrast agent in the vessels? Its own description tells, or the agent's name."""

import re

from preprocess.dicom.catalog import Texts

_WITHOUT = re.compile(
    r"\b(without|w\s?/\s?o|wo|ohne|sans|sin)\b"
    r"|\b(non|no|pre)[\s-]*(iv\s)?(contrast|kontrast|enhanced|con\b|contr\b|iv\b|km\b|ce\b|c\b)"
    r"|\b(vor|keine?|o\.?)\s?km\b"
    r"|\b(plain|nativ|native|unenhanced|ncct|nchct|ncect|nce)\b|(^|[\s(])(c-|-c|-km)($|[\s)])",
    re.IGNORECASE,
)
_WITH = re.compile(
    r"contrast|kontrast|\bpost[\s-]*(con|iv|km|c)\b|\bw(ith)?\s?/?\s?(c|con|iv|km)\b|\bct[av]\b"
    r"|\bm?km\b|\bce(ct)?\b"
    r"|angio|venogra|arterial|venous|enhanced|iodine|(^|[\s(])(c\+|\+c)($|[\s)])",
    re.IGNORECASE,
)
_NO_AGENT = re.compile(
    r"((no|not|none)( .*)?|non|n|n\s?[/.]?\s?a\.?|nil|false|off|unknown|-+|0+(\.0+)?"
    r"|without.*|w/o.*|.*\b(no contrast|none)\b.*)?",
    re.IGNORECASE,
)


def has_contrast(texts: Texts) -> bool:
    """Whether a contrast agent is stated, by Series Description (0008,103E), else Contrast/Bolus Agent.

    The description comes first, because some scanners write the agent (0018,0010) into every series
    of an examination, its plain scan included. Study and protocol say nothing of one series: the plain
    scan of an angiography is the one that is wanted. "Without" is looked for first, as its words contain
    those of "with".
    """
    description = texts.series_description.replace("_", " ")  # for \b, "_" is a letter
    if _WITHOUT.search(description):
        return False
    agent = texts.contrast.replace("_", " ").strip()
    return bool(_WITH.search(description)) or not (_NO_AGENT.fullmatch(agent) or _WITHOUT.search(agent))
