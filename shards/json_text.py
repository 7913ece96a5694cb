"""JSON that may come from elsewhere."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError for what is none, and for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
