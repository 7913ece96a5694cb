"""Speed and memory of a scan and of a plan: `python tests/bench/bench_scan.py`.

The files are created: the header of a real CT (../shared) and an image of 64 pixels, 20 per series.
Speeds are relative to only reading the same files in the same run; CPU time, for busy machines.
Every measurement runs in a separate process, for its peak memory.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pydicom
from markdown_table import heading, row
from pydicom.uid import UID, ExplicitVRLittleEndian
from tiny import parsed

from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog_table import INSTANCE_TABLE, CatalogWriter, PrivateParquet
from preprocess.scan.already_read import KnownFiles
from preprocess.scan.findings import FILE_COLUMNS, REJECTED_TABLE, Published, file_fingerprints
from preprocess.scan.grouping import Findings, write_tables
from preprocess.scan.run import scan
from preprocess.scan.work_folder import WorkFolder, rejected_path
from preprocess.tasks.plan import plan
from shards.parallel import InlineExecutor, stop_server

HEAD = Path(__file__).parents[3] / "shared" / "dicom" / "dcm_qa_ct" / "ge_head_tilt18"
SERIES_FILES = 20
FOLDER_FILES = 500
DIGITS = 8


def template() -> bytes:
    """A real header, whose UIDs and Patient ID end in placeholders of `DIGITS` digits."""
    data = pydicom.dcmread(min(HEAD.glob("*.dcm")))
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.Rows = data.Columns = 8
    data.PixelData = bytes(128)
    data.PatientID = data.StudyInstanceUID = data.SeriesInstanceUID = "1.2." + "8" * DIGITS
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID("1.2." + "9" * DIGITS)
    buffer = BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def make_files(folder: Path, count: int) -> Path:
    pattern = template()
    for number in range(count):
        if number % FOLDER_FILES == 0:
            place = folder / str(number // FOLDER_FILES)
            place.mkdir(parents=True)
        uids = (b"8" * DIGITS, number // SERIES_FILES), (b"9" * DIGITS, number)
        data = pattern
        for placeholder, value in uids:
            data = data.replace(placeholder, b"%0*d" % (DIGITS, value + 10 ** (DIGITS - 1)))
        (place / str(number)).write_bytes(data)
    os.sync()  # or what is measured next would wait for it
    return folder


def read_raw(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb", buffering=0) as file:
                file.read(8192)


def read_pydicom(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            pydicom.dcmread(os.path.join(parent, name), stop_before_pixels=True)


def run_scan(folder: Path, catalog: Path, workers: int) -> None:
    scan(folder, catalog, workers)


def make_catalog(path: Path, series: int, images: int = SERIES_FILES) -> None:
    """A catalog of `series` series of `images` instances, without files."""
    strings = {f.name: "text" for f in INSTANCE_TABLE if f.type == pa.string()}
    with CatalogWriter(path) as writer:
        for start in range(0, series, 2000):
            rows = [
                strings
                | {"patient_id": f"{one:09}", "study_uid": f"1.2.{one:09}", "series_uid": f"1.2.3.{one:09}"}
                | {"sop_uid": f"1.2.840.113619.2.55.3.{one:09}.{number}", "path": b"/a/%d/%d" % (one, number)}
                | {"size": 526228, "mtime_ns": 10**18, "rows": 512, "columns": 512, "frames": 1, "frame": 0}
                | {"member": b"", "offset": 0, "archive_size": 0, "sha256": ""}
                for one in range(start, min(start + 2000, series))
                for number in range(images)
            ]
            writer.add(pa.Table.from_pylist(rows, schema=INSTANCE_TABLE))


def regroup(catalog: Path) -> None:
    """The second half of a scan, with the images of `catalog` as its findings."""
    rejected = rejected_path(catalog)
    with PrivateParquet(rejected, REJECTED_TABLE):
        pass
    record = Published(catalog, rejected)
    work = WorkFolder(catalog.with_name("regrouped"))
    work.scratch.mkdir(parents=True)
    files = ((0, file_fingerprints(table)) for table in record.tables(FILE_COLUMNS))
    known = KnownFiles.build(work.scratch / "known", files)
    findings = Findings([record], known, np.ones(len(known.files), bool))
    write_tables(findings, work, InlineExecutor())
    assert work.made_catalog.read_bytes() == catalog.read_bytes()


def run_plan(catalog: Path, out: Path, key: Path) -> None:
    plan(catalog, out, PreprocessConfig(key_file=key))


def measure(
    work: Callable[..., None], *arguments: Any, apart: bool = True, start: str = "spawn"
) -> dict[str, float]:
    """Wall and CPU seconds of `work` in a new process and its workers, and their peak memory, MiB.

    apart=False: in this process, whose peak memory is then that of all it has done. start: "fork" for a child
    that has this one's imports, and so begins with its memory.
    """
    if not apart:
        return _figures(work, arguments)
    context: ForkContext | SpawnContext
    context = multiprocessing.get_context("fork") if start == "fork" else multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(there, work, arguments))
    process.start()
    there.close()  # so that a process that fails ends the wait
    try:
        return here.recv()
    finally:
        process.join()


def _measured(result: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    result.send(_figures(work, arguments))


def _figures(work: Callable[..., None], arguments: tuple[Any, ...]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    stop_server()  # so that what its workers used is known
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    own, workers = (resource.getrusage(usage) for usage in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall": wall,
        "cpu": cpu + workers.ru_utime + workers.ru_stime,
        "own": own.ru_maxrss / 1024,
        "workers": workers.ru_maxrss / 1024,
    }


def bench_speed(folder: Path, count: int, workers: int, apart: bool) -> None:
    files = make_files(folder / "files", count)
    catalog = folder / "catalog.parquet"
    heading(f"{count} files", "files/s", "CPU ms a file", "ratio")
    bare = 0.0
    for name, work, arguments in (
        ("pydicom, `stop_before_pixels`", read_pydicom, ()),
        ("open, read 8 KiB", read_raw, ()),
        ("`scan`, 1 worker", run_scan, (folder / "one.parquet", 1)),
        (f"`scan`, {workers} workers", run_scan, (catalog, workers)),
        (f"`scan` again, {workers} workers", run_scan, (catalog, workers)),
    ):
        figures = measure(work, files, *arguments, apart=apart)
        cpu = 1000 * figures["cpu"] / count
        bare = bare or cpu
        row(name, f"{count / figures['wall']:.0f}", f"{cpu:.2f}", f"{cpu / bare:.2f}")


def bench_memory(folder: Path, counts: list[int], workers: int, apart: bool) -> None:
    heading("files", "peak of the scan, MiB", "of a worker, MiB")
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            files = make_files(Path(place) / "files", count)
            figures = measure(run_scan, files, Path(place) / "catalog.parquet", workers, apart=apart)
        row(count, f"{figures['own']:.0f}", f"{figures['workers']:.0f}")


def bench_catalog(folder: Path, counts: list[int], apart: bool) -> None:
    key = folder / "hmac.key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    columns = ("images in series of 20", "grouping, CPU s", "peak, MiB", "plan, CPU s", "peak, MiB")
    heading(*columns, "plan.json, MB")
    for count in counts:
        place = folder / str(count)
        measure(make_catalog, place / "catalog", count, apart=apart)
        grouped = measure(regroup, place / "catalog", apart=apart)
        planned = measure(run_plan, place / "catalog", place / "out", key, apart=apart)
        size = (place / "out" / "tasks" / "plan.json").stat().st_size / 1e6
        figures = [(f"{one['cpu']:.1f}", f"{one['own']:.0f}") for one in (grouped, planned)]
        row(SERIES_FILES * count, *figures[0], *figures[1], f"{size:.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--series", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    options = parsed(parser, arguments, files=[20], series=[10], workers=1, apart=False)
    if not HEAD.is_dir():
        sys.exit(f"{HEAD} is missing: this benchmark needs the real head")
    with tempfile.TemporaryDirectory() as folder:
        bench_speed(Path(folder), min(options.files[-1], 10_000), options.workers, options.apart)
        bench_memory(Path(folder), options.files, options.workers, options.apart)
        bench_catalog(Path(folder), options.series, options.apart)


if __name__ == "__main__":
    main()
