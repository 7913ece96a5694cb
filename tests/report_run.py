"""All inputs of a report, created in seconds by the project's own writers, without training."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from shard_samples import FACTS, make_key, make_record
from small_training import small_config

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.mae import Mae
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.leakage import Leakage
from fmct_hpc.probe.sweep.collect import Summary as SweepSummary
from fmct_hpc.probe.sweep.tables import COMPARISONS, RESULTS
from fmct_hpc.train import attempts
from fmct_hpc.train.checkpoint import ONLINE, DataFacts, Manifest, checkpoint_path, mark_score
from fmct_hpc.train.export import export_encoder, load_encoder
from fmct_hpc.train.records import Records
from preprocess.qc.montage import montage
from preprocess.qc.thumbnail import thumbnail
from preprocess.reasons import Reason
from preprocess.tasks import manifest, quarantine
from preprocess.tasks.collect import Summary
from preprocess.tasks.quarantine import Entry
from preprocess.volume.measure import Measures
from shards import Dataset, ShardWriter, finish_dataset
from shards.atomic import write_text

VOLUMES = 24
STEPS = 700
"""More than the points of a curve."""
SCANNERS = ("GE LIGHTSPEED", "SIEMENS FORCE")
HOSTILE = "<script>alert(1)</script>|`bleed` $x$ _y_"
"""A label's name, which is text of the user."""


class Inputs(NamedTuple):
    """Folders and files, the inputs of `fmct report`."""

    run: Path
    data: Path
    probe: Path
    features: Path
    labels: Path


def write_inputs(folder: Path) -> Inputs:
    """A run with a sign of collapse, a skipped step and 24 volumes of two scanners."""
    inputs = Inputs(*(folder / name for name in ("run", "data", "probe", "features", "labels.parquet")))
    dataset = _write_data(inputs.data)
    config = small_config(
        inputs.data / "zarr",
        run={"steps": STEPS, "batch": 4},
        health={"patience": 50, "not_finite": "skip"},
    )
    _write_run(inputs.run, config, dataset)
    encoder = OurEncoder(*load_encoder(inputs.run / "encoder.safetensors"))
    extract_store(Extraction(encoder, "trained", dataset), inputs.features)
    studies = dataset.index["study_key"].to_pylist()
    labels = {
        "study_key": studies,
        "any_bleed": [i % 3 == 0 for i in range(VOLUMES)],
        HOSTILE: [None, *[1, 0] * 11, 1],
    }
    pq.write_table(pa.table({name: pa.array(values) for name, values in labels.items()}), inputs.labels)
    _write_probe(inputs.probe, inputs.run)
    return inputs


def _write_data(folder: Path) -> Dataset:
    rows, thumbnails = [], []
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(3 * [np.linspace(-1, 1, 40)]), indexing="ij"))
    measures: dict[str, Any] = dict.fromkeys(Measures.model_fields, 0.5) | {"brain_hu": None}
    with ShardWriter(folder / "zarr", "shard-00000", "zarr") as writer:
        for number in range(VOLUMES):
            head = (grid**2).sum(axis=0) < generator.uniform(0.6, 0.9)
            voxels = np.where(head, 40 * generator.random(grid.shape[1:]), -1000).astype(np.int16)
            facts = FACTS.model_copy(update={"kernel_class": "soft" if number % 4 else "unknown"})
            record = make_record(
                voxels,
                make_key(number),
                study_key=make_key(1000 + number),
                spacing_mm=(4.0, 4.0, 4.0),
                facts=facts,
            )
            writer.add(record, voxels)
            flags = ["motion"] if number == 3 else []
            scanner = SCANNERS[number % 2]
            rows.append(
                manifest.row(record, "shard-00000", scanner, None, {}, [], flags, Measures(**measures))
            )
            thumbnails.append((record.key, thumbnail(voxels, (4, 4, 4))))
    stored = finish_dataset(folder / "zarr", "zarr", ["shard-00000"])
    manifest.write(manifest.table(rows), folder / "manifest.parquet")
    reasons = [Reason.BONE_KERNEL] * 5 + [Reason.MISSING_SLICES] * 2
    rejected = [
        Entry(
            make_key(90 + i),
            make_key(i),
            make_key(1000 + i),
            SCANNERS[i % 2],
            reason,
            "select",
            "a number: 3",
        )
        for i, reason in enumerate(reasons)
    ]
    quarantine.write(quarantine.table(rejected), folder / "quarantine.parquet")
    montage(thumbnails, folder / "qc" / "montage.png")
    summary = Summary(
        digest="c" * 64,
        tasks=1,
        series=VOLUMES + len(rejected),
        volumes=VOLUMES,
        patients=VOLUMES,
        studies=VOLUMES,
        rejected_series=len(rejected),
        joined_series=0,
        rejected_by_reason={"bone_kernel": 5, "missing_slices": 2},
        dropped_slices_by_reason={"duplicate_slice": 3},
        flagged_volumes=1,
        flagged_by_reason={"motion": 1},
        source_bytes=10**9,
        stored_bytes={"zarr": stored.bytes},
        worker_seconds=1.0,
        source_mb_per_worker_second=1000.0,
    )
    write_text(folder / "summary.json", summary.model_dump_json())
    return Dataset.open(folder / "zarr")


def _write_run(run: Path, config: TrainConfig, dataset: Dataset) -> None:
    write_text(run / "config.json", config.model_dump_json())
    records = Records(run, 0, STEPS, STEPS)
    for step in range(1, STEPS + 1):
        figures = {"loss": 8 - step / 200, "dino": 6 - step / 300, "mae": 0.9, "lr": 1e-3, "skipped": 0.0}
        figures |= {"teacher_entropy": 2.0, "divergence": 0.5, "prototypes_used": 9.0, "damaged_volumes": 0.0}
        figures["feature_deviation"] = 0.01 if 100 < step <= 200 else 0.9
        if step <= 4 or step % 10 == 0:
            figures |= {"retrieval": 0.3, "retrieval_chance": 0.25, "patch_rank": 1.2 if step > 400 else 8.0}
            figures |= {"patch_similarity": 0.4, "probe_linear": 0.6 + step / 7000}
        if step == 7:
            figures = {"skipped": 1.0, "damaged_volumes": 0.0}
        records.step(step, figures)
    facts = DataFacts.of(dataset)
    for done, stopped_by in ((300, "SIGTERM"), (STEPS, None)):
        attempt = attempts.begin(run, config, facts, ["secretive-host"] * 2, 0 if stopped_by else 300)
        attempts.end(run, attempt, done, stopped_by)
    torch.manual_seed(0)
    for step in range(100, STEPS + 1, 100):
        view, masked, rebuilt = torch.rand(3, 3, 24, 24, 24)
        volumes = {"input": view, "visible": masked, "reconstruction": rebuilt}
        records.gallery(step, Mae.gallery, volumes)
        records.attention(step, view, torch.rand(2, 2, 2))
    records.close()
    checkpoint = Manifest(
        step=STEPS,
        updates=STEPS - 1,
        world_size=2,
        zero_stage=2,
        configuration=config.model_dump(mode="json"),
        versions={"fmct-hpc": "0.1.0"},
        data=facts,
        files={},
    )
    write_text(checkpoint_path(run, STEPS) / "manifest.json", checkpoint.sealed().model_dump_json())
    mark_score(checkpoint_path(run, STEPS), 0.7, "mean AUC", ONLINE)
    weights = VisionTransformer(config.model, len(config.data.windows), config.data.view_size).state_dict()
    export_encoder(run, {f"encoder.{name}": tensor for name, tensor in weights.items()}, config, facts, STEPS)


def _write_probe(folder: Path, run: Path) -> None:
    """Two encoders, two tasks, two methods, two numbers of labels, two seeds each."""
    generator = np.random.default_rng(0)
    row: dict[str, object]
    results: list[dict[str, object]] = []
    compared: list[dict[str, object]] = []
    for task in ("any_bleed", HOSTILE):
        for method, pool in (("logistic", "both"), ("neighbours", "both")):
            for fraction, seeds in ((0.1, (0, 1)), (1.0, (0,))):
                shared = {"task": task, "method": method, "pool": pool, "layer": 0, "fraction": fraction}
                for seed in seeds:
                    areas = {"trained": 0.8 + fraction / 10, "untrained": 0.6 + fraction / 10}
                    for encoder, area in areas.items():
                        area += seed / 50
                        row = {"auprc": 0.5, "balanced_accuracy": 0.5, "ece": 0.1, "brier": 0.2}
                        row |= {"encoder": encoder, "step": STEPS, "seed": seed, "split": "id", **shared}
                        row |= {"n_train": int(100 * fraction), "n": VOLUMES, "positives": 8}
                        row |= {"auc": area, "auc_low": area - 0.05, "auc_high": area + 0.05}
                        row |= {"reliability_predicted": [0.1, 0.5, 0.9]}
                        row |= {"reliability_observed": sorted(generator.random(3).tolist())}
                        results.append(row)
                    row = {"encoder": "trained", "versus": "untrained", "seed": seed, "split": "id", **shared}
                    row |= {"difference": 0.2, "difference_low": 0.1, "difference_high": 0.3}
                    compared.append(row | {"p": 0.01, "p_holm": 0.04})
    results += [row for encoder in ("trained", "untrained") for row in _of_kinds(encoder)]
    refused: dict[str, object] = {
        "encoder": "trained",
        "task": "epidural",
        "method": "logistic",
        "fraction": 1.0,
        "seed": 0,
    }
    results.append(refused | {"reason": "3 positive patients, at least 10 are needed"})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(results, RESULTS), folder / "results.parquet")
    pq.write_table(pa.Table.from_pylist(compared, COMPARISONS), folder / "comparisons.parquet")
    summary = SweepSummary(
        units=8,
        done=7,
        results=len(results),
        refused=1,
        comparisons=len(compared),
        cohort_digest="d" * 64,
        confidence=0.95,
        leakage=(
            Leakage(encoder="trained", tested=VOLUMES, pretrained=VOLUMES),
            Leakage(encoder="untrained", tested=VOLUMES, pretrained=0),
        ),
    )
    write_text(folder / "summary.json", summary.model_dump_json())


def _of_kinds(encoder: str) -> list[dict[str, object]]:
    """A grade, a value and a time to event, each with a figure and its reliability curves."""
    shared = {
        "encoder": encoder,
        "method": "logistic",
        "pool": "both",
        "layer": 0,
        "fraction": 1.0,
        "seed": 0,
    }
    shared |= {"n_train": 100, "n": VOLUMES, "split": "id"}
    probability: dict[str, object] = {"predicted": [0.1, 0.5, 0.8], "observed": [0.2, 0.4, 0.9]}
    probability |= {"low": [0.0, 0.3, 0.7], "high": [0.3, 0.6, 1.0], "volumes": [8, 8, 8], "at": None}
    value = {"predicted": [20.0, 55.0], "observed": [25.0, 50.0], "low": [15.0, 35.0], "high": [33.0, 70.0]}
    curves = {
        "ordinal": [probability | {"name": f"above {grade}"} for grade in (0, 1)],
        "regression": [value | {"name": "value", "at": None, "volumes": [12, 12]}],
        "survival": [probability | {"name": "event", "at": 185.0}],
    }
    figure = {"name": "mae", "value": 0.4, "low": 0.3, "high": 0.5, "at": None}
    tasks = {"ordinal": "grade", "regression": "blood_ml", "survival": "death"}
    return [
        shared | {"task": task, "kind": kind, "figures": [figure], "curves": curves[kind]}
        for kind, task in tasks.items()
    ]
