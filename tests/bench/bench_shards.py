"""Times and sizes of shards, on one thread: `python tests/bench/bench_shards.py`.

The volume is the real head of ../shared, its slices stacked and resized to 176×220×220. Figures are
medians; read their ratios, for the machine may be busy.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pydicom
import zarr
from scipy.ndimage import zoom

from shards import Dataset, DecodeFacts, ShardFormat, ShardWriter, VolumeRecord, crc32, finish_dataset, index
from shards.dataset import INDEX_NAME
from shards.info import sha256, write

HEAD = Path(__file__).parents[3] / "shared" / "dicom" / "dcm_qa_ct" / "ge_head_tilt18"
SHAPE = (176, 220, 220)
CROP = 112
ROWS = 361_663
FORMATS: tuple[ShardFormat, ...] = ("zarr", "webdataset")


def head() -> np.ndarray:
    """A real head, int16 HU of SHAPE."""
    slices = [pydicom.dcmread(file) for file in sorted(HEAD.glob("*.dcm"))]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    stored = np.stack(
        [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
    )
    factors = [new / old for new, old in zip(SHAPE, stored.shape, strict=True)]
    return np.rint(zoom(np.maximum(stored, -1024).astype(np.float32), factors, order=1)).astype(np.int16)


def make_record(voxels: np.ndarray, key: str = "0" * 32) -> VolumeRecord:
    facts = DecodeFacts(
        kernel_class="soft",
        kvp=120,
        slice_thickness_mm=5,
        gantry_tilt_deg=0,
        slices=28,
        slice_gap_mm=(5, 5),
        matrix=(512, 512),
        pixel_spacing_mm=(0.49, 0.49),
        manufacturer="ge",
        transfer_syntax="1.2.840.10008.1.2.1",
    )
    return VolumeRecord(
        key=key,
        patient_key=key,
        study_key=key,
        shape=voxels.shape,
        spacing_mm=(1, 1, 1),
        affine=tuple(np.eye(4).ravel()),
        crc32=crc32(voxels),
        source_digest="a" * 64,
        config_digest="b" * 64,
        facts=facts,
    )


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def bench_reads(folder: Path, repeats: int) -> None:
    voxels = head()
    record = make_record(voxels)
    np.save(folder / "raw.npy", voxels)
    raw = np.load(folder / "raw.npy", mmap_mode="r")
    rng = np.random.default_rng(0)

    def crop(read_box: Callable[[list[int]], np.ndarray]) -> float:
        starts = [[int(rng.integers(size - CROP + 1)) for size in SHAPE] for _ in range(repeats)]
        return milliseconds(lambda: read_box(starts.pop()), repeats)

    def sliced(array: zarr.Array | np.ndarray) -> Callable[[list[int]], np.ndarray]:
        return lambda start: np.array(array[tuple(slice(a, a + CROP) for a in start)])

    print("| read by | ratio | write, ms | whole volume, ms | 112³ crop, ms |\n|---|---|---|---|---|")
    whole = milliseconds(lambda: np.array(raw), repeats)
    print(f"| raw memmap | 1 | | {whole:.1f} | {crop(sliced(raw)):.2f} |")
    for format in FORMATS:

        def save(format: ShardFormat = format) -> None:
            with ShardWriter(folder / format, "one", format) as shard:
                shard.add(record, voxels)

        write_time = milliseconds(save, 5)
        info = finish_dataset(folder / format, format, ["one"])
        dataset = Dataset.open(folder / format)
        cropped = crop(lambda a, d=dataset: d.read_box(0, tuple(a), tuple(i + CROP for i in a)))
        whole = milliseconds(lambda d=dataset: d.read(0), repeats)
        ratio = voxels.nbytes / info.bytes
        print(f"| `{format}` | {ratio:.2f} | {write_time:.0f} | {whole:.1f} | {cropped:.2f} |")
    with zarr.storage.ZipStore(dataset.path.parent / "zarr" / "one.zarr.zip") as store:
        array = zarr.open_group(store, mode="r")[record.key]
        whole = milliseconds(lambda: array[:], repeats)
        print(f"| `zarr` by zarr-python | as above | | {whole:.1f} | {crop(sliced(array)):.2f} |")


def make_index(folder: Path, rows: int) -> None:
    """A dataset directory with an index of `rows` volumes and no shard."""
    voxels = np.zeros((2, 2, 2), np.int16)
    with ShardWriter(folder, "one", "zarr") as shard:
        shard.add(make_record(voxels), voxels)
    info = finish_dataset(folder, "zarr", ["one"])
    rng = np.random.default_rng(0)

    def digests(size: int) -> pa.Array:
        return pa.array([rng.bytes(size).hex() for _ in range(rows)])

    random = {name: digests(16) for name in ("key", "patient_key", "study_key")}
    random["source_digest"] = digests(32)
    affine = pa.array(rng.normal(size=rows * 16))
    random["affine"] = pa.FixedSizeListArray.from_arrays(affine, 16)
    table = index.read(folder / INDEX_NAME).take(pa.array(np.zeros(rows, np.int64)))
    for name, column in random.items():
        table = table.set_column(table.schema.get_field_index(name), index.SCHEMA.field(name), column)
    index.write(table.cast(index.SCHEMA), folder / INDEX_NAME)
    info = info.model_copy(update={"volumes": rows, "index_sha256": sha256(folder / INDEX_NAME)})
    write(info.model_copy(update={"digest": info.compute_digest()}), folder)


def bench_open(folder: Path) -> None:
    """Run in a fresh process, for its peak memory."""
    start = time.perf_counter()
    dataset = Dataset.open(folder)
    opened = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    key = dataset.index["key"][ROWS // 2].as_py()
    print(f"\n| index of {len(dataset)} volumes | |\n|---|---|")
    print(f"| index.parquet | {(folder / INDEX_NAME).stat().st_size / 2**20:.0f} MiB |")
    print(f"| open | {opened:.2f} s |\n| peak memory of the process | {peak:.0f} MiB |")
    print(f"| `record(i)` | {milliseconds(lambda: dataset.record(ROWS // 2), 100):.2f} ms |")
    print(f"| `position(key)` | {milliseconds(lambda: dataset.position(key), 20):.2f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    if not HEAD.is_dir():
        sys.exit(f"{HEAD} is missing: this benchmark needs the real head")
    with tempfile.TemporaryDirectory() as folder:
        bench_reads(Path(folder), repeats)
        large = Path(folder) / "large"
        context = multiprocessing.get_context("spawn")
        for work in ((make_index, (large, ROWS)), (bench_open, (large,))):
            process = context.Process(target=work[0], args=work[1])
            process.start()
            process.join()


if __name__ == "__main__":
    main()
