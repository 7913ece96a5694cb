"""docs/other-readers.md: reading shards with other programs."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tensorstore
import webdataset
import zarr
from documents import REPOSITORY, blocks
from nibabel import Nifti1Image
from nibabel import load as load_nifti
from numcodecs import blosc
from nvidia.dali import fn, pipeline_def
from shard_samples import make_key, make_record, noise, write_dataset

from shards import Dataset
from shards.dump import dump

DOCUMENT = REPOSITORY / "docs" / "other-readers.md"
KEYS = [make_key(number) for number in (3, 1, 7, 2, 6, 4, 5, 0)]
"""In stored order; the first volume has omitted chunks."""
SHARD = "shard-00000"
ZARR, TAR = Path("data/zarr"), Path("data/webdataset") / f"{SHARD}.tar"
ZIP = ZARR / f"{SHARD}.zarr.zip"
BOX = np.s_[20:50, 0:33, 31:40]


def volume(key: str) -> np.ndarray:
    return noise((70, 66, 40) if key == KEYS[0] else (5, 6, 7), int(key, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets data/zarr and data/webdataset, and the Zarr shard unpacked."""
    root = tmp_path_factory.mktemp("shards")
    for format in ("zarr", "webdataset"):
        write_dataset(root / "data" / format, format, {SHARD: {key: volume(key) for key in KEYS}})
    with zipfile.ZipFile(root / ZIP) as archive:
        archive.extractall(root / "unpacked")
    return root


def box_of(group: zarr.Group, key: str, box: tuple[slice, ...]) -> np.ndarray:
    array = group[key]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[box])


def by_zarr_python(folder: Path, key: str, box: tuple[slice, ...]) -> np.ndarray:
    with zarr.storage.ZipStore(folder / ZIP) as store:
        return box_of(zarr.open_group(store, mode="r"), key, box)


def by_zarr_python_unpacked(folder: Path, key: str, box: tuple[slice, ...]) -> np.ndarray:
    return box_of(zarr.open_group(folder / "unpacked", mode="r"), key, box)


def by_zarrs(folder: Path, key: str, box: tuple[slice, ...]) -> np.ndarray:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return by_zarr_python_unpacked(folder, key, box)


def by_tensorstore(folder: Path, key: str, box: tuple[slice, ...]) -> np.ndarray:
    shard = folder / ZIP
    return tensorstore.open(f"file://{shard}|zip:{key}/|zarr3:").result()[box].read().result()


READERS: dict[str, Callable[[Path, str, tuple[slice, ...]], np.ndarray]] = {
    f"zarr-python {version('zarr')}": by_zarr_python,
    f"zarr-python {version('zarr')}, unpacked": by_zarr_python_unpacked,
    f"zarrs {version('zarrs')}, as zarr-python's pipeline": by_zarrs,
    f"tensorstore {version('tensorstore')}": by_tensorstore,
}


def documented() -> dict[str, dict[str, str]]:
    """The document's table of shards: cells by reader and heading."""
    text = DOCUMENT.read_text().split("## Shards")[1]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, _, *lines = rows
    return {reader: dict(zip(head[1:], cells, strict=True)) for reader, *cells in lines}


def of_dali(shard: Path, extensions: list[str]) -> list[list[bytes]]:
    """For each extension the bytes of every sample."""

    def samples() -> tuple[Any, ...]:
        parts: Any = fn.readers.webdataset(paths=[str(shard)], ext=[*extensions, "json"])
        return tuple(parts)

    settings = pipeline_def(batch_size=len(KEYS), num_threads=1, device_id=None, prefetch_queue_depth=1)
    read = settings(samples)()
    read.build()
    return [[bytes(np.array(batch.at(i))) for i in range(len(KEYS))] for batch in read.run()]


def decoded(stored: bytes, record: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(blosc.decompress(stored), "<i2").reshape(record["shape"])


def test_the_document_has_these_readers_and_versions() -> None:
    others = {f"webdataset {version('webdataset')}", f"DALI {version('nvidia-dali-cuda130')}"}
    assert set(documented()) >= {name.removesuffix(", unpacked") for name in READERS} | others


def test_the_documents_code_reads_the_volumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    collected: dict[str, Any] = {}
    for block in blocks(DOCUMENT, "python"):
        exec(block, collected)
    for name in ("by_zarr_python", "by_zarrs", "by_tensorstore"):
        for key, voxels in zip(KEYS, collected[name], strict=True):
            np.testing.assert_array_equal(voxels, volume(key))
    np.testing.assert_array_equal(collected["by_dali"], volume(KEYS[0]))


@pytest.mark.parametrize("reader", READERS)
def test_voxels_are_the_same_whole_and_in_boxes_with_omitted_chunks(reader: str, folder: Path) -> None:
    for key in KEYS[:2]:
        np.testing.assert_array_equal(READERS[reader](folder, key, np.s_[:, :, :]), volume(key))
    np.testing.assert_array_equal(READERS[reader](folder, KEYS[0], BOX), volume(KEYS[0])[BOX])


def test_tensorstore_has_the_fill_value_the_axes_and_the_record(folder: Path) -> None:
    shard = folder / ZIP
    array = tensorstore.open(f"file://{shard}|zip:{KEYS[0]}/|zarr3:").result()
    assert array.fill_value == -1024
    assert array.domain.labels == ("z", "y", "x")
    record = make_record(volume(KEYS[0]), KEYS[0]).model_dump(mode="json")
    assert array.spec().to_json()["metadata"]["attributes"] == record


def test_a_zip_lists_its_arrays_in_another_order_than_the_shard(folder: Path) -> None:
    """The order differs with a probability of 1 - 1/40,320."""
    shard = folder / ZIP
    with zarr.storage.ZipStore(shard) as store:
        listed = list(zarr.open_group(store, mode="r").array_keys())
    assert sorted(listed) == sorted(KEYS)
    assert listed != KEYS
    by_name = tensorstore.KvStore.open(f"file://{shard}|zip:").result().list().result()
    assert [name.decode().split("/")[0] for name in by_name if b"/zarr.json" in name] == sorted(KEYS)
    # As documented in docs/other-readers.md: the index has the order.
    assert Dataset.open(folder / ZARR).index["key"].to_pylist() == KEYS


def flipped(shard: Path, dataset: Path, place: int = 5000) -> bytes:
    """The bytes of a shard with one bit of its first volume's voxels flipped."""
    stored = bytearray(shard.read_bytes())
    stored[Dataset.open(dataset).index["offset"][0].as_py() + place] ^= 1
    return bytes(stored)


@pytest.mark.parametrize("reader", READERS)
def test_readers_that_detect_a_flipped_bit_in_a_chunk(reader: str, folder: Path, tmp_path: Path) -> None:
    row = Dataset.open(folder / ZARR).index.slice(0, 1).to_pylist()[0]
    damaged = flipped(folder / ZIP, folder / ZARR)
    (tmp_path / ZARR).mkdir(parents=True)
    (tmp_path / ZIP).write_bytes(damaged)
    shutil.copytree(folder / "unpacked", tmp_path / "unpacked")
    chunk = tmp_path / "unpacked" / KEYS[0] / "c/0/0/0"
    chunk.write_bytes(damaged[row["offset"] :][: row["length"]])

    def read() -> np.ndarray:
        return READERS[reader](tmp_path, KEYS[0], np.s_[:, :, :])

    if documented()[reader.removesuffix(", unpacked")]["a flipped bit"] == "refused":
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            read()
    else:
        assert zlib.crc32(read().tobytes()) != row["crc32"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file to garbage collection
def test_a_flipped_bit_in_a_tar_is_detected_by_the_crc_of_the_record_alone(
    folder: Path, tmp_path: Path
) -> None:
    shard = tmp_path / "s.tar"
    shard.write_bytes(flipped(folder / TAR, (folder / TAR).parent))
    sample = next(iter(webdataset.WebDataset(str(shard), shardshuffle=False)))
    (stored, *_), (record, *_) = of_dali(shard, ["vol.blosc"])
    assert sample["vol.blosc"] == stored
    record = json.loads(record)
    assert zlib.crc32(decoded(stored, record).tobytes()) != record["crc32"]


def test_dali_reads_the_tar_by_the_whole_extension(folder: Path) -> None:
    voxels, records = of_dali(folder / TAR, ["vol.blosc"])
    actual = [json.loads(record) for record in records]
    assert [record["key"] for record in actual] == KEYS
    for stored, record in zip(voxels, actual, strict=True):
        np.testing.assert_array_equal(decoded(stored, record), volume(record["key"]))
        assert zlib.crc32(blosc.decompress(stored)) == record["crc32"]


@pytest.mark.parametrize("extension", ["vol", "blosc"])
def test_dali_gives_empty_samples_for_a_part_of_the_extension(folder: Path, extension: str) -> None:
    voxels, records = of_dali(folder / TAR, [extension])
    assert voxels == [b""] * len(KEYS)
    assert all(records)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_decodes_the_record_and_leaves_the_voxels(folder: Path) -> None:
    shard = str(folder / TAR)
    samples = list(webdataset.WebDataset(shard, shardshuffle=False).decode())
    assert [sample["json"]["key"] for sample in samples] == KEYS
    for sample in samples:
        np.testing.assert_array_equal(decoded(sample["vol.blosc"], sample["json"]), volume(sample["__key__"]))


@pytest.mark.filterwarnings("ignore")  # MONAI's message about nvImageCodec
def test_a_dumped_volume_has_the_position_in_its_record(folder: Path, tmp_path: Path) -> None:
    from monai.transforms import LoadImage

    dump(folder / ZARR, KEYS[0], out := tmp_path / "volume.nii.gz")
    affine = np.array(make_record(volume(KEYS[0]), KEYS[0]).affine).reshape(4, 4)
    (d, h, w), expected = (60, 7, 30), volume(KEYS[0])[60, 7, 30]
    point = (affine @ [d, h, w, 1])[:3]
    image, by_itk = load_nifti(out), SimpleITK.ReadImage(str(out))
    by_monai = LoadImage(image_only=True)(out)
    assert isinstance(image, Nifti1Image)
    for voxels, to_ras in ((image.dataobj, image.affine), (by_monai.numpy(), by_monai.affine.numpy())):
        assert np.asarray(voxels)[w, h, d] == expected
        np.testing.assert_allclose((to_ras @ [w, h, d, 1])[:3] * [-1, -1, 1], point, atol=1e-4)
    assert by_itk.GetPixel(w, h, d) == expected
    np.testing.assert_allclose(by_itk.TransformIndexToPhysicalPoint((w, h, d)), point, atol=1e-4)
