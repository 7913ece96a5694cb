"""JSON from untrusted sources."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Parse a JSON text. Raises ValueError if it is not JSON or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
