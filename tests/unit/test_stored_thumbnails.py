"""Stored volumes are drawn in a worker process, each once."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shard_samples import damage_volume, make_key, noise, write_dataset

from preprocess.qc.stored import stored_thumbnails
from preprocess.qc.thumbnail import thumbnail
from shards import Dataset
from shards.errors import DamagedDataError, FmctError

WINDOW = 40.0, 80.0
KEYS = [make_key(number) for number in range(4)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "zarr", {"shard-0": {key: noise((9, 8, 7), i) for i, key in enumerate(KEYS)}})
    return tmp_path


def test_images_are_those_of_the_stored_voxels_in_the_order_asked(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    expected = {
        key: thumbnail(opened.read(opened.position(key)), opened.info.spacing_mm, window_hu=WINDOW)
        for key in KEYS
    }
    with stored_thumbnails(dataset, WINDOW) as draw:
        for keys in ([KEYS[2], KEYS[0]], [], [*reversed(KEYS), KEYS[1], KEYS[1]]):
            actual = draw(keys)
            assert len(actual) == len(keys)
            assert all(np.array_equal(one, expected[key]) for one, key in zip(actual, keys, strict=True))


def test_no_volume_is_read_twice(dataset: Path) -> None:
    with stored_thumbnails(dataset, WINDOW) as draw:
        first = draw(KEYS[:3])
        Dataset.open(dataset).shard_file(0).unlink()
        assert np.array_equal(draw(KEYS[2::-1]), first[::-1])
        with pytest.raises(FmctError):
            draw(KEYS)


DRAWN = """
import sys
from pathlib import Path
from preprocess.qc.stored import stored_thumbnails

with stored_thumbnails(Path(sys.argv[1]), (40.0, 80.0)) as draw:
    draw(sys.argv[2:])
print({"numba"} & set(sys.modules))
"""


def test_the_process_that_asks_loads_no_compiled_code(dataset: Path) -> None:
    command = [sys.executable, "-P", "-c", DRAWN, str(dataset), *KEYS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr


def test_a_damaged_volume_is_named(dataset: Path) -> None:
    damage_volume(dataset, 1)
    with stored_thumbnails(dataset, WINDOW) as draw:
        assert len(draw([KEYS[0]])) == 1
        with pytest.raises(DamagedDataError, match=str(dataset)):
            draw(KEYS[:2])


def test_the_death_of_the_worker_is_an_error_of_the_dataset(dataset: Path) -> None:
    with stored_thumbnails(dataset, WINDOW) as draw:
        draw(KEYS[:1])
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        with pytest.raises(FmctError, match=str(dataset)):
            draw(KEYS)
