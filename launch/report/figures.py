"""Figures that read in light, in dark and on paper: SVG in the page's own colours, and small pictures."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import PIL.Image
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.figure import Figure

SERIES = 8
"""Colours that the page has for lines and points."""
PICTURE_PIXELS = 1400
"""Widest picture of a page; a screen shows no more of it."""
PICTURE_QUALITY = 85

_VARIABLES = {
    "ink": "#010101",
    "dim": "#020202",
    "line": "#030303",
    "paper": "#040404",
    **{f"c{i}": f"#0500{i:02x}" for i in range(SERIES)},
}
"""Matplotlib draws in these, and the page puts its style's variables in their place."""

INK, DIM, LINE, PAPER = (_VARIABLES[name] for name in ("ink", "dim", "line", "paper"))
COLOURS = tuple(_VARIABLES[f"c{i}"] for i in range(SERIES))


@contextmanager
def themed() -> Iterator[None]:
    """Within it, Matplotlib draws figures for `svg`."""
    style: Any = {
        "font.size": 10,
        "font.family": "sans-serif",
        "text.parse_math": False,  # a dollar in a label's name is a dollar
        "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
        "svg.hashsalt": "fmct",  # the same figure, the same bytes
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": DIM,
        "xtick.color": DIM,
        "ytick.color": DIM,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "axes.prop_cycle": cycler(color=COLOURS),
    }
    with matplotlib.rc_context(style):
        yield


def svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as inline SVG; `name` is unique on the page, `alt` says what it shows."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', text)
    assert box, "Matplotlib's SVG has a viewBox"
    opening = f'<svg {box[0]} role="img" aria-label="{escape(alt)}">'
    text = opening + text[text.index(">") + 1 :]
    # Identifiers are a figure's own in Matplotlib, and must be so on a page of many.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for variable, colour in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text)


def picture(path: Path, alt: str) -> Markup:
    """A picture file as an <img> that holds it, narrowed and compressed for a page."""
    with PIL.Image.open(path) as image:
        small = image.convert("RGB")
    if small.width > PICTURE_PIXELS:
        small = small.resize((PICTURE_PIXELS, round(small.height * PICTURE_PIXELS / small.width)))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=PICTURE_QUALITY, method=6)
    source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(
        source, small.width, small.height, alt
    )
