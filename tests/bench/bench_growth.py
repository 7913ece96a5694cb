"""The cost per record as an archive grows: `python tests/bench/bench_growth.py [--counts N...]`.

Commands that process records rather than voxels, on the given numbers of volumes of 2³ voxels, so that the
cost is that of the records: catalog rows (5 images per volume), tasks' tables and shards, index, features,
labels. Every step runs in a forked process, for its peak memory, which starts at that of the imports. CPU
time, the minimum of rounds; what takes over 5 s is measured once. "A further record": the cost of one more
between a count and the previous one, without the fixed start of a step; the last column compares it with
that of the previous row. The comparison of pairs in collecting (`preprocess.qc.similar`) has a separate row.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_scan import make_catalog, measure, regroup
from markdown_table import heading, row
from safetensors.numpy import save_file
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from shard_samples import make_record

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.store import FeatureRequest, FeatureStore, PartMarker, array_name
from fmct_hpc.probe.store import collect as collect_features
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.checkpoint import file_facts
from preprocess import run
from preprocess.config import OutputConfig, PreprocessConfig
from preprocess.qc import pictures, sketches
from preprocess.qc.similar import NUMBERS, PAIR
from preprocess.tasks import ledger, manifest, quarantine
from preprocess.tasks.ledger import TaskResult
from preprocess.tasks.plan import read_current_plan
from preprocess.volume.measure import Measures
from shards import Dataset, ShardWriter
from shards.index import read_sidecar, sidecar_path
from shards.info import preprocessing_digest
from shards.split import split
from shards.verification import verify

IMAGES, LAYER, WIDTH = 5, 11, 64
MEASURES = Measures(
    **dict.fromkeys(Measures.model_fields, 0.0) | {"head_ml": 3000.0, "head_height_mm": 180.0}
)


def configuration(folder: Path) -> PreprocessConfig:
    key = folder / "hmac.key"
    if not key.exists():
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
    return PreprocessConfig(key_file=key, workers=1, output=OutputConfig(formats=("zarr",)))


def make(folder: Path, count: int) -> None:
    make_catalog(folder / "catalog", count, IMAGES)


def plan(folder: Path) -> None:
    run.plan(folder / "catalog", folder / "out", configuration(folder))


def do_tasks(folder: Path) -> None:
    """Write the outputs of the plan's tasks, with volumes of 2³ voxels."""
    config = configuration(folder)
    out, digest = folder / "out", preprocessing_digest(config.shaping())
    voxels, random = np.zeros((2, 2, 2), np.int16), np.random.default_rng(0)
    for index, task in enumerate(read_current_plan(out, config).tasks):
        place = ledger.files(out, index, task)
        rows, drawn = [], {}
        with ShardWriter(out / "zarr", place.shard, "zarr") as shard:
            for number in task.rows:
                key = hashlib.sha256(b"%d" % number).hexdigest()
                names = {"patient_key": key[::-1][:32], "study_key": key[32:], "config_digest": digest}
                record = make_record(voxels, key[:32], source_digest=key, **names)
                shard.add(record, voxels)
                rows.append(manifest.row(record, place.shard, "ge", None, {}, [], [], MEASURES))
                sketch = random.standard_normal(NUMBERS, dtype=np.float32)
                drawn[record.key] = sketch / np.linalg.norm(sketch)
        manifest.write(manifest.table(rows), place.manifest)
        quarantine.write(quarantine.table([]), place.quarantine)
        pictures.write([], place.pictures)
        sketches.write(drawn, place.sketches)
        info = read_sidecar(sidecar_path(out / "zarr", place.shard), "zarr")[1]
        done = TaskResult(
            digest=task.digest,
            series=len(rows),
            volumes=len(rows),
            source_bytes=len(rows),
            seconds=1.0,
            rejected={},
            dropped_slices={},
            shards={"zarr": info},
        )
        ledger.mark(place, done)


def collect(folder: Path) -> None:
    """Collect without the comparison of pairs."""
    with patch("preprocess.qc.sketches.similar_pairs", return_value=np.empty(0, PAIR)):
        run.collect(folder / "out", configuration(folder))


def similar(folder: Path) -> None:
    paths = sorted((folder / "out" / "tasks").glob("*.sketches.parquet"))
    sketches.pairs_of(paths, pq.read_table(folder / "out" / "manifest.parquet"))


def check(folder: Path) -> None:
    assert not verify(folder / "out" / "zarr")


def divide(folder: Path) -> None:
    split(folder / "out" / "zarr", folder / "split", {"train": 0.8, "test": 0.2})


def make_features(folder: Path) -> None:
    """A store of one part, and labels of every study."""
    dataset = Dataset.open(folder / "out" / "zarr")
    random, count = np.random.default_rng(0), len(dataset)
    request = FeatureRequest(
        encoder_digest="e",
        dataset_digest=dataset.info.digest,
        keys_digest="k",
        layers=(LAYER,),
        poolings=("cls",),
        tokens=False,
    )
    part = folder / "part.safetensors"
    save_file({array_name(LAYER, "cls"): random.standard_normal((count, WIDTH), np.float32)}, part)
    facts = file_facts(part)
    assert facts is not None
    marker = PartMarker(request_digest=request.digest, patches=0, file=facts)
    part.with_suffix(".json").write_text(marker.model_dump_json())
    collect_features(folder / "features", request, [part], dataset.index, "e", None, 12, "")
    labels = {"study_key": dataset.index["study_key"], "bleed": pa.array(random.integers(0, 2, count))}
    pq.write_table(pa.table(labels), folder / "labels.parquet")


def read_features(folder: Path) -> None:
    FeatureStore.open(folder / "features").vectors(LAYER, "cls")


def plan_sweep(folder: Path) -> None:
    paths = {"data": folder / "out" / "zarr", "labels": folder / "labels.parquet"}
    encoder = {"name": "e", "function": "peer:none"}
    given = {**paths, "features": folder / "features", "encoders": [encoder], "folds": 5}
    given["allow_unknown_pretraining"] = True
    Sweep(SweepConfig.model_validate(given), folder / "sweep").plan()


STEPS: dict[str, Callable[..., Any]] = {
    "scan: grouping": lambda folder: regroup(folder / "catalog"),
    "plan": plan,
    "collect": collect,
    "verify": check,
    "features": read_features,
    "sweep: plan": plan_sweep,
    "split": divide,
    "collect: pairs alike": similar,
}
BEFORE: dict[str, Callable[..., Any]] = {"collect": do_tasks, "features": make_features}
"""What makes the input of a step; it is not measured."""


OUTPUTS = {
    "scan: grouping": ".regrouped.scan",
    "plan": "out",
    "collect": "out/summary.json",
    "split": "split",
    "sweep: plan": "sweep",
}
"""What a round of a step leaves, without which the next one does the whole work again."""


def step(name: str, folder: Path) -> None:
    STEPS[name](folder)


def clear(folder: Path, name: str) -> None:
    """Remove what an earlier round of a step has left."""
    left = folder / OUTPUTS[name] if name in OUTPUTS else None
    if left and left.is_file():
        left.unlink()
    elif left and left.is_dir():
        shutil.rmtree(left)


LONG_SECONDS = 5.0
"""Of a step that takes longer, noise is a small part: one round is enough."""


def minimum_of_rounds(name: str, folder: Path, rounds: int, apart: bool) -> tuple[float, float]:
    """The minimum CPU seconds of the rounds, and the maximum peak memory, MiB."""
    collected = []
    for _ in range(rounds):
        clear(folder, name)
        collected.append(measure(step, name, folder, apart=apart, start="fork"))
        if collected[-1]["cpu"] > LONG_SECONDS:
            break
    return min(one["cpu"] for one in collected), max(one["own"] for one in collected)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parsed(parser, arguments, counts=[10, 20], apart=False, rounds=1)
    before: dict[str, tuple[int, float]] = {}
    each: dict[str, float] = {}
    heading("volumes", "step", "CPU s", "peak, MiB", "a further record, ms", "of the row before")
    for count in options.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measure(make, folder, count, apart=options.apart, start="fork")
            for work in STEPS:
                if work in BEFORE:
                    measure(BEFORE[work], folder, apart=options.apart, start="fork")
                cpu, peak = minimum_of_rounds(work, folder, options.rounds, options.apart)
                further = ratio = ""
                if work in before:
                    fewer, of_fewer = before[work]
                    slope = 1000 * (cpu - of_fewer) / (count - fewer)
                    ratio = f"{slope / each[work]:.2f}" if each.get(work) else ""
                    further, each[work] = f"{slope:.4f}", slope
                before[work] = count, cpu
                row(count, work, f"{cpu:.2f}", f"{peak:.0f}", further, ratio)


if __name__ == "__main__":
    main()
