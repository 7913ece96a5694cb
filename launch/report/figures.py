"""Figures for light, dark and print themes: SVG in the page's colour variables, and compressed pictures."""

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
"""Number of the page's colours for lines and points."""
PICTURE_PIXELS = 1400
"""Maximum width of a picture on a page."""
PICTURE_QUALITY = 85

_VARIABLES = {
    "ink": "#010101",
    "dim": "#020202",
    "line": "#030303",
    **{f"c{i}": f"#0500{i:02x}" for i in range(SERIES)},
}
"""Placeholder colours for Matplotlib, which are replaced by the page's CSS variables."""

INK, DIM, LINE = (_VARIABLES[name] for name in ("ink", "dim", "line"))
COLOURS = tuple(_VARIABLES[f"c{i}"] for i in range(SERIES))


@contextmanager
def themed() -> Iterator[None]:
    """A context in which Matplotlib draws figures for `svg`."""
    style: Any = {
        "font.size": 10,
        "font.family": "sans-serif",
        "text.parse_math": False,  # a dollar in a label's name is literal
        "svg.fonttype": "none",  # text, not paths: small, searchable, accessible
        "svg.hashsalt": "fmct",  # deterministic output
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
    """A figure as inline SVG; `name` is unique on the page, `alt` is the text alternative."""
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
    # Matplotlib's identifiers are unique in a figure only; the prefix makes them unique on the page.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for variable, colour in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return Markup(text)


def picture(path: Path, alt: str) -> Markup:
    """A picture file as an <img> with embedded data, scaled down and compressed for a page."""
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
