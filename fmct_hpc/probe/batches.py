"""Assignment of training volumes to steps; every volume is used once per round."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray


def batches(
    count: int, batch: int, steps: int, order: Callable[[int], NDArray[np.int64]]
) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers below `count` for each step: concatenated permutations, cut into batches.

    order: returns the permutation of a round, numbered from 0.
    """
    rounds = -(-steps * batch // count)
    places = np.concatenate([order(number) for number in range(rounds)])
    for step in range(steps):
        yield places[step * batch : (step + 1) * batch]
