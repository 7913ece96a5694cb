"""Errors that every rank, or every rank of a node, finds by itself: one rank reports them."""

from collections.abc import Iterator
from contextlib import contextmanager

from shards.errors import FmctError


@contextmanager
def reported_once(first: bool) -> Iterator[None]:
    """Let an FmctError pass if this rank is the first of those that find the same.

    On the others it becomes SystemExit with its exit code, so that they end without a message.
    """
    try:
        yield
    except FmctError as error:
        if first:
            raise
        raise SystemExit(error.exit_code) from None
