"""Memory is reused only once no array refers to it."""

import threading
import weakref

import numpy as np

from shards.buffers import Buffers

SHAPE = (2**10, 2**10)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_in_use_is_not_reused() -> None:
    buffers = Buffers(2)
    one, two = (buffers.take(SHAPE, np.uint16) for _ in range(2))
    part, places = one[5:, 7], {address(one), address(two)}
    del one, two
    third = buffers.take((2**20,), np.uint8)
    assert address(third) in places
    assert not np.shares_memory(third, part)
    assert address(buffers.take(SHAPE, np.uint16)) not in places  # two are kept, and both are in use
    del part
    assert address(buffers.take(SHAPE, np.float16)) in places - {address(third)}


def test_larger_arrays_get_larger_memory_and_small_ones_bypass_it() -> None:
    buffers = Buffers(1)
    place = address(buffers.take(SHAPE, np.uint8))
    larger = buffers.take(SHAPE, np.float32)
    larger[:] = 1
    assert (larger.shape, larger.dtype) == (SHAPE, np.dtype(np.float32))
    place = address(larger)
    del larger
    assert address(buffers.take((3,), np.uint8)) != place
    assert address(buffers.take(SHAPE, np.uint8)) == place


def test_cleared_memory_is_released() -> None:
    buffers = Buffers(1)
    kept = weakref.ref(buffers.take(SHAPE, np.uint8).base)
    assert kept() is not None
    buffers.clear()
    assert kept() is None


def test_threads_never_share_memory() -> None:
    buffers, wrong = Buffers(4), []

    def work(number: int) -> None:
        for _ in range(200):
            array = buffers.take(SHAPE, np.uint8)
            array[::64, 0] = number
            wrong.extend(array[::64, 0][array[::64, 0] != number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
