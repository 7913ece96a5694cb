"""Errors that occur on every rank, or every rank of a node: one rank reports them."""

from collections.abc import Iterator
from contextlib import contextmanager

from shards.errors import FmctError


@contextmanager
def reported_once(first: bool) -> Iterator[None]:
    """Re-raise an FmctError if `first`, for one of the ranks with the same error.

    On the others it becomes SystemExit with its exit code, so that they end without a message.
    """
    try:
        yield
    except FmctError as error:
        if first:
            raise
        raise SystemExit(error.exit_code) from None
