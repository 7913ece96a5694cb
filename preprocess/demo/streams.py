"""The demo's randomness: independent Philox streams, named by purpose."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of a random stream; each has a separate Philox key."""

    PATIENT = 1
    POSE = 2
    LABEL = 3
    LESION = 4
    NOISE = 5
    NAMES = 6
    SURVIVAL = 7
    FRACTURE = 8


def generator(seed: int, stream: Stream, *indices: int) -> np.random.Generator:
    """A generator that is a pure function of its arguments (at most two indices, such as a study's)."""
    first, second = (*indices, 0, 0)[:2]
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, first, second]))
