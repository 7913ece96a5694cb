"""numba's tables of types and implementations, complete once this module is imported.

The first call of a compiled function completes them, in a quarter of a second. For the server of
`shards.parallel.process_pool`, from which workers are forked.
"""

from shards.compiled import njit


@njit()
def nothing() -> None:
    """Compiled and called to complete the tables."""


nothing()
