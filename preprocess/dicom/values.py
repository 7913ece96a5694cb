"""An attribute's values as plain text and numbers, regardless of the stated VR."""

import math
import re
from functools import cache
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

MAX_TEXT = 2**16
"""Most bytes of a value that is not a sequence: a 16-bit length (PS3.5 section 7.1.2)."""
_PLAIN_VRS = frozenset({"AE", "AS", "CS", "DS", "IS", "LO", "SH", "UI"})
_TEXT_VRS = frozenset({"LO", "SH"})
"""VRs of our attributes that depend on the character set."""
_BYTES_VRS = frozenset({"OB", "OW", "UN"})
"""VRs without information: stated by writers that do not know an attribute, and by anonymisers."""
_NO_TEXT_VRS = frozenset({"AT", "FD", "FL", "SL", "SQ", "SS", "SV", "UL", "US", "UV", "OD", "OF", "OL", "OV"})
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number with a decimal comma of the writer's locale. Commas that group digits are not in PS3.5 section 6.2
either, and writers do not group the digits of numbers in files."""


def values(data: pydicom.Dataset, keyword: str) -> list[Any]:
    """The attribute's values; empty if it is missing, empty or not valid for its VR."""
    tag, vr = tag_and_vr(keyword)
    element = data.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement) and vr != "SQ" and len(element.value or b"") > MAX_TEXT:
        return []
    plain = plain_values(element, vr)
    if plain is not None:
        return plain
    try:
        value = data.get(keyword)
    except MemoryError:
        raise
    except Exception:
        value = None
    if (
        isinstance(element, RawDataElement)
        and vr in _TEXT_VRS
        and not isinstance(value, str | list | MultiValue)
    ):
        # An invalid character set, or a VR that is not text.
        value = (element.value or b"").decode("latin-1").rstrip("\0 ")
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | Sequence | list | tuple) else [value]


def plain_values(element: DataElement | RawDataElement, vr: str) -> list[Any] | None:
    """The values that pydicom gives for nearly all elements, ten times as fast; None for the others.

    The standard's VR is used if the stated one is another kind of text, or unknown: the bytes are the same,
    but pydicom would not split them at backslashes or parse numbers.
    """
    if not isinstance(element, RawDataElement) or not element.value:
        return None
    stated, value = element.VR or vr, element.value
    plain = stated in _PLAIN_VRS or (vr in _PLAIN_VRS and stated not in _NO_TEXT_VRS)
    # An escape starts another character set.
    if plain and value.isascii() and b"\x1b" not in value:
        return [part.rstrip("\0 ") for part in value.decode("ascii").rstrip("\0 ").split("\\")]
    if len(value) == 2 and (stated == "US" or (vr.startswith("US") and stated in _BYTES_VRS)):
        return [int.from_bytes(value, "little" if element.is_little_endian else "big")]
    return None


@cache
def tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    """The single tag object of an attribute, found in dictionaries by identity, and the standard's VR."""
    tag = Tag(keyword)
    return tag, dictionary_VR(tag)


def text(data: pydicom.Dataset, keyword: str) -> str:
    """All values as one text, joined by backslashes; empty if there are none."""
    whole = "\\".join(str(value) for value in values(data, keyword))
    # Undecodable bytes of a wrong character set would not fit in UTF-8 columns.
    return whole.replace("\0", "").encode(errors="replace").decode().strip()


def meaning(data: pydicom.Dataset, keyword: str) -> str:
    """Code Meaning (0008,0104) of a code sequence's first item."""
    items = values(data, keyword)
    return text(items[0], "CodeMeaning") if items and isinstance(items[0], pydicom.Dataset) else ""


def words(data: pydicom.Dataset, keyword: str) -> list[str]:
    """The values in upper case; a single empty one if there are none."""
    return [part.strip().upper() for part in text(data, keyword).split("\\")]


def numbers(data: pydicom.Dataset, keyword: str, count: int) -> list[float] | None:
    """`count` finite numbers; None for anything else."""
    stated = values(data, keyword)
    try:
        found = [float(value) for value in stated]
    except TypeError:
        return None
    except ValueError:
        if not all(isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) for value in stated):
            return None
        found = [float(value.replace(",", ".")) for value in stated]
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def coordinates(data: pydicom.Dataset, keyword: str, count: int) -> list[float] | None:
    """As `numbers`, but empty if the attribute has another value; None if it is missing or empty."""
    coordinates_ = numbers(data, keyword, count)
    element = data.get_item(keyword) if coordinates_ is None else None
    return coordinates_ if element is None or element.value in (None, b"", "") else []


def factor(data: pydicom.Dataset, keyword: str) -> float | None:
    """As `number`, but NaN if the attribute has another value; None if it is missing or empty."""
    found = coordinates(data, keyword, 1)
    return None if found is None else found[0] if found else math.nan


def number(data: pydicom.Dataset, keyword: str) -> float | None:
    """The attribute as one finite number; None for anything else."""
    found = numbers(data, keyword, 1)
    return found[0] if found else None


def integer(data: pydicom.Dataset, keyword: str) -> int | None:
    """The number truncated to an integer; None beyond 64 bits."""
    value = number(data, keyword)
    return None if value is None or abs(value) >= 2**63 else int(value)
