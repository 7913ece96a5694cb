"""Reading and writing shards: `OMP_NUM_THREADS=1 python tests/bench/bench_shards.py [reads|codecs|index]`.

The volume is the real head of tests/data, its slices stacked and resized to 176×220×220. Times are CPU
times of this process, one thread, warm cache: all readers read the same random crops, interleaved; shown is
the mean over crops of the minimum over rounds. blosc2 is in the extra `bench`; `--no-blosc2` omits its rows.
"""

import argparse
import itertools
import multiprocessing
import operator
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom
import zarr
from markdown_table import heading, row
from numcodecs import blosc
from scipy.ndimage import zoom
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from shard_samples import FORMATS, make_key, make_record

from shards import Dataset, ShardFormat, ShardWriter, finish_dataset, index
from shards.info import INDEX_NAME, sha256, write

HEAD = Path(__file__).parents[1] / "data" / "ge_head_tilt18"
SHAPE = (176, 220, 220)
CROPS = 20

Box = tuple[slice, ...]
ReadBox = Callable[[Box], Any]


def head(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """A real head, int16 HU, its slices stacked and resized to `shape`."""
    slices = [pydicom.dcmread(file) for file in sorted(HEAD.glob("*.dcm"))]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    stored = np.stack(
        [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
    )
    factors = [new / old for new, old in zip(shape, stored.shape, strict=True)]
    return np.rint(zoom(np.maximum(stored, -1024).astype(np.float32), factors, order=1)).astype(np.int16)


def cpu_ms(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def boxes(shape: Sequence[int], crop: int) -> list[Box]:
    rng = np.random.default_rng(0)
    starts = [[int(rng.integers(size - crop + 1)) for size in shape] for _ in range(CROPS)]
    return [tuple(slice(a, a + crop) for a in start) for start in starts]


def read_first(dataset: Dataset, box: Box) -> np.ndarray:
    return dataset.read_box(0, tuple(side.start for side in box), tuple(side.stop for side in box))


def compare(
    readers: dict[str, ReadBox], voxels: np.ndarray, crop: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """CPU ms of a whole volume and of a crop³ for each reader, interleaved; checks the voxels of each."""
    places = [tuple(slice(0, size) for size in voxels.shape), *boxes(voxels.shape, crop)]
    least = {name: np.full(len(places), np.inf) for name in readers}
    for read in readers.values():
        for place in places:
            np.testing.assert_array_equal(np.asarray(read(place)), voxels[place])
    for _ in range(rounds):
        for name, read in readers.items():
            times = [cpu_ms(partial(read, place)) for place in places]
            least[name] = np.minimum(least[name], times)
    return {name: (float(times[0]), float(times[1:].mean())) for name, times in least.items()}


def bench_reads(folder: Path, voxels: np.ndarray, crop: int, rounds: int, blosc2: bool) -> None:
    record = make_record(voxels, make_key(0))
    np.save(folder / "raw.npy", voxels)
    raw = np.load(folder / "raw.npy", mmap_mode="r")
    readers: dict[str, ReadBox] = {"raw memmap": lambda box: np.array(raw[box])}
    ratios, writes = {"raw memmap": 1.0}, {}
    for format in FORMATS:

        def save(format: ShardFormat = format) -> None:
            with ShardWriter(folder / format, "one", format) as shard:
                shard.add(record, voxels)

        name = f"`{format}` shard"
        writes[name] = min(cpu_ms(save) for _ in range(3))
        ratios[name] = voxels.nbytes / finish_dataset(folder / format, format, ["one"]).bytes
        dataset = Dataset.open(folder / format)
        readers[name] = partial(read_first, dataset)
    if blosc2:
        add_blosc2(folder, voxels, readers, ratios, writes)
    with zipfile.ZipFile(folder / "zarr" / "one.zarr.zip") as archive:
        archive.extractall(folder / "unpacked")  # zarrs reads no zip
    for name, pipeline in (
        ("zarr-python", "zarr.core.codec_pipeline.BatchedCodecPipeline"),
        ("zarrs", "zarrs.ZarrsCodecPipeline"),
    ):
        single = {"threading.max_workers": 1, "async.concurrency": 1}
        with zarr.config.set({"codec_pipeline.path": pipeline, **single}):
            array = zarr.open_group(folder / "unpacked", mode="r")[record.key]
        readers[f"`zarr` shard by {name}"] = partial(operator.getitem, array)
        ratios[f"`zarr` shard by {name}"] = ratios["`zarr` shard"]
    heading("read by", "ratio", "write, ms", "whole volume, ms", f"{crop}³ crop, ms")
    for name, (whole, part) in compare(readers, voxels, crop, rounds).items():
        write_time = f"{writes[name]:.0f}" if name in writes else ""
        row(name, f"{ratios[name]:.2f}", write_time, f"{whole:.1f}", f"{part:.2f}")


def add_blosc2(
    folder: Path,
    voxels: np.ndarray,
    readers: dict[str, ReadBox],
    ratios: dict[str, float],
    writes: dict[str, float],
) -> None:
    """The rows of blosc2, from a file and from memory."""
    import blosc2  # of the extra `bench`

    blosc2.set_nthreads(1)
    for codec, level in ((blosc2.Codec.ZSTD, 1), (blosc2.Codec.ZSTD, 5), (blosc2.Codec.LZ4, 1)):
        name = f"blosc2 {codec.name.lower()}-{level} 64/32"
        settings = {
            "chunks": (64,) * 3,
            "blocks": (32,) * 3,
            "cparams": {"codec": codec, "clevel": level, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
            "dparams": {"nthreads": 1},
        }

        def save_blosc2(settings: dict[str, Any] = settings) -> Any:
            return blosc2.asarray(voxels, **settings)

        writes[f"{name}, file"] = min(cpu_ms(save_blosc2) for _ in range(3))
        in_memory = save_blosc2()
        ratios[f"{name}, file"] = ratios[f"{name}, memory"] = voxels.nbytes / in_memory.schunk.cbytes
        path = str(folder / f"{codec.name}-{level}.b2nd")
        blosc2.asarray(voxels, urlpath=path, mode="w", **settings)
        on_disk = blosc2.open(path, mode="r", dparams={"nthreads": 1})
        readers[f"{name}, file"] = on_disk.__getitem__
        readers[f"{name}, memory"] = in_memory.__getitem__


def chunked(voxels: np.ndarray, edge: int, codec: blosc.Blosc) -> dict[tuple[int, ...], bytes]:
    """Each chunk of the volume that is not constant air, encoded by numcodecs' blosc."""
    stored = {}
    for cell in np.ndindex(*(-(-size // edge) for size in voxels.shape)):
        chunk = np.full((edge,) * 3, -1024, np.int16)
        inside = voxels[tuple(slice(c * edge, (c + 1) * edge) for c in cell)]
        chunk[tuple(slice(0, size) for size in inside.shape)] = inside
        if (chunk != -1024).any():
            stored[cell] = codec.encode(chunk)
    return stored


def box_of_chunks(stored: dict[tuple[int, ...], bytes], edge: int, box: Box) -> np.ndarray:
    """The voxels of a box by a plain loop over its chunks."""
    out = np.full([side.stop - side.start for side in box], -1024, np.int16)
    chunk = np.empty((edge,) * 3, np.int16)
    for cell in itertools.product(*(range(side.start // edge, -(-side.stop // edge)) for side in box)):
        if cell not in stored:
            continue
        blosc.decompress(stored[cell], chunk)
        first = [c * edge for c in cell]
        low = [max(f, side.start) for f, side in zip(first, box, strict=True)]
        high = [min(f + edge, side.stop) for f, side in zip(first, box, strict=True)]
        to = tuple(slice(a - side.start, b - side.start) for a, b, side in zip(low, high, box, strict=True))
        out[to] = chunk[tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))]
    return out


def bench_codecs(voxels: np.ndarray, crop: int, rounds: int) -> None:
    """The choice of codec and chunk: all through numcodecs' blosc and one plain loop."""
    blosc.use_threads = False
    readers: dict[str, ReadBox] = {}
    sizes, writes = {}, {}
    for edge in (16, 32, 48, 64):
        for codec, level in (("zstd", 1), ("zstd", 3), ("zstd", 5), ("lz4", 1)):
            for shuffle, name in ((blosc.SHUFFLE, "bytes"), (blosc.BITSHUFFLE, "bits")):
                made = blosc.Blosc(codec, level, shuffle, edge**3 * 2, typesize=2)
                key = f"{edge}³ | {codec}-{level} | {name}"
                stored = chunked(voxels, edge, made)
                writes[key] = min(cpu_ms(partial(chunked, voxels, edge, made)) for _ in range(2))
                sizes[key] = sum(len(data) + 20 for data in stored.values())  # with index and CRC-32C
                readers[key] = partial(box_of_chunks, stored, edge)
    columns = ("chunk", "codec", "shuffled by", "ratio", "encode, ms", "whole volume, ms")
    heading(*columns, f"{crop}³ crop, ms")
    for key, (whole, part) in compare(readers, voxels, crop, rounds).items():
        ratio = voxels.nbytes / sizes[key]
        row(key, f"{ratio:.2f}", f"{writes[key]:.0f}", f"{whole:.1f}", f"{part:.2f}")


def make_index(folder: Path, rows: int) -> None:
    """A dataset directory with an index of `rows` volumes and no shard."""
    voxels = np.zeros((2, 2, 2), np.int16)
    with ShardWriter(folder, "one", "zarr") as shard:
        shard.add(make_record(voxels, make_key(0)), voxels)
    info = finish_dataset(folder, "zarr", ["one"])
    rng = np.random.default_rng(0)

    def digests(size: int) -> pa.Array:
        return pa.array([rng.bytes(size).hex() for _ in range(rows)])

    random = {name: digests(16) for name in ("key", "patient_key", "study_key")}
    random["source_digest"] = digests(32)
    random["crc32"] = pa.array(rng.integers(2**32, size=rows), pa.uint32())
    affine = pa.array(rng.normal(size=rows * 16))
    random["affine"] = pa.FixedSizeListArray.from_arrays(affine, 16)
    table = index.read(folder / INDEX_NAME).take(pa.array(np.zeros(rows, np.int64)))
    for name, column in random.items():
        table = table.set_column(table.schema.get_field_index(name), index.SCHEMA.field(name), column)
    index.write(table.cast(index.SCHEMA), folder / INDEX_NAME)
    shards = (info.shards[0].model_copy(update={"volumes": rows}),)
    digest = sha256(folder / INDEX_NAME)
    info = info.model_copy(update={"volumes": rows, "shards": shards, "index_sha256": digest})
    write(info.model_copy(update={"digest": info.compute_digest()}), folder)


def bench_open(folder: Path) -> None:
    """Run in a fresh process, for its peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    opened = cpu_ms(lambda: Dataset.open(folder))
    passed = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dataset = Dataset.open(folder)
    middle = len(dataset) // 2
    key = dataset.index["key"][middle].as_py()
    hashed = cpu_ms(lambda: sha256(folder / INDEX_NAME))
    heading(f"index of {len(dataset)} volumes", "")
    row("index.parquet", f"{(folder / INDEX_NAME).stat().st_size / 2**20:.2f} MiB")
    row("open, CPU (passed)", f"{opened / 1000:.2f} s ({passed:.2f} s)")
    row("of it SHA-256 of the index", f"{hashed / 1000:.2f} s")
    row("peak memory of the process (before opening)", f"{peak:.0f} MiB ({before:.0f} MiB)")
    row("`content_digest()`", f"{cpu_ms(dataset.content_digest) / 1000:.2f} s")
    row("`record(i)`", f"{min(cpu_ms(lambda: dataset.record(middle)) for _ in range(50)):.2f} ms")
    row("`position(key)`", f"{min(cpu_ms(lambda: dataset.position(key)) for _ in range(20)):.2f} ms")


def bench_index(folder: Path, rows: int, apart: bool) -> None:
    if not apart:
        make_index(folder, rows)
        bench_open(folder)
        return
    context = multiprocessing.get_context("spawn")
    for work, given in ((make_index, (folder, rows)), (bench_open, (folder,))):
        process = context.Process(target=work, args=given)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{work.__name__} failed")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("reads", "codecs", "index"), help="all without it")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--rows", type=int, default=361_663, help="of the index")
    parser.add_argument("--blosc2", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    small = {"rounds": 1, "shape": (40, 40, 40), "crop": 16, "rows": 100, "blosc2": False, "apart": False}
    options = parsed(parser, arguments, **small)
    voxels = head(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        if options.what in (None, "reads"):
            bench_reads(Path(folder), voxels, options.crop, options.rounds, options.blosc2)
        if options.what in (None, "codecs"):
            bench_codecs(voxels, options.crop, max(1, options.rounds // 3))
        if options.what in (None, "index"):
            bench_index(Path(folder) / "large", options.rows, options.apart)


if __name__ == "__main__":
    main()
