"""docs/architecture.md, "How to add a storage format", applied literally to a copy of the packages."""

from pathlib import Path

import pytest
from documented_example import AppliedExample, follow
from shard_samples import noise, write_dataset

USE = """
import sys
from pathlib import Path
import numpy as np
from shards import Dataset, FmctError

whole, plain = (Dataset.open(Path(sys.argv[1]) / name) for name in ("zarr", "plain"))
assert plain.info.format == "plain" and plain.content_digest() == whole.content_digest()
assert {plain.codec(n) for n in range(len(plain))} == {"zstd"}
box = (1, 2, 0), (4, 5, 7)
for n in range(len(plain)):
    assert np.array_equal(plain.read(n), whole.read(n))
    assert np.array_equal(plain.read_box(n, *box), whole.read_box(n, *box))
file = plain.shard_file(0)
stored = bytearray(file.read_bytes())
missed = 0
for place in range(plain.index["length"][0].as_py()):
    stored[place] ^= 1
    file.write_bytes(stored)
    try:
        missed += not np.array_equal(plain.read_box(0, *box), whole.read_box(0, *box))
    except FmctError:
        pass
    stored[place] ^= 1
print("missed", missed)
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> AppliedExample:
    return follow("How to add a storage format", tmp_path_factory.mktemp("copy"))


def test_the_documented_format_stores_the_same_volumes(followed: AppliedExample, tmp_path: Path) -> None:
    volumes = {f"{n:032x}": noise((5, 6 + n, 7), n) for n in range(3)}
    write_dataset(tmp_path / "zarr", "zarr", {"shard-00000": volumes})
    for source, out, to in (("zarr", "plain", "plain"), ("plain", "back", "zarr")):
        places = [str(tmp_path / source), "--out", str(tmp_path / out)]
        followed.run("-m", "launch.cli", "shards", "convert", *places, "--to", to)
    for file in (tmp_path / "zarr").iterdir():
        assert file.read_bytes() == (tmp_path / "back" / file.name).read_bytes(), file.name
    followed.run("-m", "launch.cli", "shards", "verify", str(tmp_path / "plain"))
    assert followed.run("-c", USE, str(tmp_path)) == "missed 0\n"


def test_the_documented_format_is_short_and_formatted(followed: AppliedExample) -> None:
    followed.lint()
