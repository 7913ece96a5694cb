"""Which training volumes a step learns from, where every volume comes once a round."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray


def batches(
    count: int, batch: int, steps: int, order: Callable[[int], NDArray[np.int64]]
) -> Iterator[NDArray[np.int64]]:
    """Places among `count` rows for each step: permutations of all, end to end, cut into batches.

    order: the permutation of a round, counted from 0.
    """
    rounds = -(-steps * batch // count)
    places = np.concatenate([order(number) for number in range(rounds)])
    for step in range(steps):
        yield places[step * batch : (step + 1) * batch]
