"""The facts in contents.json are those of the index, or are not used."""

from pathlib import Path

import pytest
from shard_samples import make_key, noise, write_dataset

from shards import Dataset, FmctError, contents, info, verify

SHARDS = {"a": {make_key(n): noise((3, 4 + n, 5), n) for n in range(3)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", "zarr", SHARDS)
    return tmp_path / "data"


@pytest.mark.parametrize("stored", [None, b"", b"[" * 200_000, b'{"patients": 7}', "of another"])
def test_without_a_file_of_this_index_the_index_is_read(folder: Path, stored: bytes | str | None) -> None:
    right = contents.of(Dataset.open(folder))
    file, text = folder / contents.FILE_NAME, contents.text(right)
    assert file.read_text() == text
    lie = right.model_copy(update={"patients": 7})
    contents.write(lie, folder)
    assert contents.read(folder, info.read(folder)) == lie, "the file is used"
    assert [problem.file for problem in verify(folder)] == [contents.FILE_NAME]
    if stored is None:
        file.unlink()
    elif isinstance(stored, bytes):
        file.write_bytes(stored)
    else:
        contents.write(lie.model_copy(update={"index_sha256": "0" * 64}), folder)
    assert contents.read(folder, info.read(folder)) == right
    assert [problem.file for problem in verify(folder)] == [contents.FILE_NAME] * (stored is not None)


def test_the_index_is_checked_although_it_is_not_read(folder: Path) -> None:
    described = info.read(folder)
    (folder / info.INDEX_NAME).write_bytes(b"")
    with pytest.raises(FmctError, match=r"index\.parquet is damaged"):
        contents.read(folder, described)
