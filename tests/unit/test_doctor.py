import fcntl
import json
import locale
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shard_samples
from small_training import small_config, write_dataset
from typer.testing import CliRunner

from fmct_hpc.train.checkpoint import MANIFEST, DataFacts, Manifest, checkpoint_path, file_facts
from launch.cli import app
from launch.doctor import installation
from launch.doctor.dataset import check_dataset
from launch.doctor.finding import Finding, run_check
from launch.doctor.run_folder import check_run
from shards import Dataset


@pytest.fixture(autouse=True, scope="module")
def modes_of_commands() -> Iterator[None]:
    """Files are written with the modes of commands."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def judge(check: Callable[[], Any]) -> Finding:
    return run_check("it", check)


def test_a_healthy_installation_has_nothing_to_fix() -> None:
    findings = by_name(installation.check_installation())
    assert [finding for finding in findings.values() if finding.level == "fault"] == []
    assert "4 × 1 × 3 × 24 × 24 × 24" in findings["shards, DALI"].message
    assert "gloo" in findings["DeepSpeed"].message or "NCCL" in findings["DeepSpeed"].message


def fault_of_python(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    return installation.checks()["Python"]


def fault_of_packages(patch: pytest.MonkeyPatch) -> Any:
    pins = ["numpy==1.26.4", "nowhere-to-be-found==2.0", 'onnx==0.1; extra == "onnx"']
    patch.setattr(installation, "requires", lambda name: pins)
    return installation.checks()["packages"]


def fault_of_codecs(patch: pytest.MonkeyPatch) -> Any:
    import pydicom.pixels
    from pydicom.pixels.decoders.base import get_decoder

    class Absent:
        is_available = False

    whole = get_decoder
    patch.setattr(pydicom.pixels, "get_decoder", lambda uid: Absent if uid.endswith(".80") else whole(uid))
    return installation.checks()["DICOM codecs"]


def fault_of_gpu(patch: pytest.MonkeyPatch) -> Any:
    import torch

    driver = "NVRM version: NVIDIA UNIX x86_64  Kernel Module 580.1  Mon Jan  5\n"
    patch.setattr(installation, "DRIVER", SimpleNamespace(read_text=lambda: driver))
    patch.setattr(torch.version, "cuda", None)
    patch.setattr(torch.cuda, "is_available", lambda: False)
    return installation.checks()["GPU"]


def fault_of_deepspeed(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(installation, "JOIN", "raise OSError('libgomp.so.1: cannot open')")
    return installation.checks()["DeepSpeed"]


def fault_of_shared_memory(patch: pytest.MonkeyPatch) -> Any:
    usage = shutil.disk_usage("/dev/shm")._replace(free=64 * 2**20)
    patch.setattr(shutil, "disk_usage", lambda path: usage)
    return installation.checks()["shared memory"]


def fault_of_limits(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(resource, "getrlimit", lambda which: (1024, 524288))
    return installation.checks()["limits"]


def fault_of_locale(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(locale, "getpreferredencoding", lambda setting: "ISO-8859-1")
    return installation.checks()["locale"]


@pytest.mark.parametrize(
    ("make", "message", "remedy"),
    [
        (fault_of_python, "3.9.2", "newer python3"),
        (fault_of_packages, "not ==1.26.4, nowhere-to-be-found is missing", "environment.sh"),
        (fault_of_codecs, "no decoder for JPEG-LS:", "pylibjpeg"),
        (fault_of_gpu, "built for CPUs", "--gpu"),
        (fault_of_deepspeed, "libgomp.so.1", "environment.sh"),
        (fault_of_shared_memory, "0.1 GB free in /dev/shm", "--shm-size"),
        (fault_of_limits, "1024 open files", "ulimit -n 65536"),
        (fault_of_locale, "ISO-8859-1", "C.UTF-8"),
    ],
)
def test_faults_of_an_installation_are_named_with_their_remedy(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], message: str, remedy: str
) -> None:
    actual = judge(make(monkeypatch))
    assert actual.level == "fault"
    assert message in actual.message
    assert remedy in actual.remedy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("doctor") / "data")


def test_an_intact_dataset_passes_every_check(data: Path) -> None:
    findings = by_name(check_dataset(data))
    assert {name: finding.level for name, finding in findings.items()} == dict.fromkeys(
        ("opens", "files", "modes", "sample", "geometry", "batch"), "ok"
    )
    assert "6 volumes in 1 zarr shards" in findings["opens"].message


def test_damage_to_a_dataset_is_located(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", spacing=9.0)
    geometry = by_name(check_dataset(folder))["geometry"]
    assert (geometry.level, "9 × 9 × 9 mm" in geometry.message) == ("fault", True)
    key = Dataset.open(folder).index["key"][3].as_py()
    shard_samples.damage_volume(folder, 3)
    sample = by_name(check_dataset(folder))["sample"]
    assert sample.level == "fault"
    assert "1 of 6" in sample.message
    assert key in sample.message
    with (folder / "shard-00000.zarr.zip").open("ab") as file:
        file.write(b"more")
    assert by_name(check_dataset(folder))["files"].level == "fault"
    (folder / "index.parquet").write_bytes(b"")
    (opens,) = check_dataset(folder)
    assert (opens.level, "index.parquet is damaged" in opens.message) == ("fault", True)


def test_a_dataset_of_constant_volumes_fails_the_batch_check(tmp_path: Path) -> None:
    air = np.full((40, 40, 40), -1000, np.int16)
    shard_samples.write_dataset(tmp_path / "air", "zarr", {"shard-00000": {shard_samples.make_key(0): air}})
    findings = by_name(check_dataset(tmp_path / "air"))
    assert (findings["geometry"].level, findings["batch"].level) == ("note", "fault")
    assert "without contrast" in findings["batch"].message


def make_run(folder: Path, data: Path) -> Path:
    """A run folder with checkpoints of steps 6 and 12, whose weights are never read."""
    config = small_config(data)
    folder.mkdir()
    (folder / "config.json").write_text(config.model_dump_json())
    for step in (6, 12):
        path = checkpoint_path(folder, step)
        path.mkdir(parents=True)
        (path / "rank-00000.safetensors").write_bytes(bytes(1000))
        facts = file_facts(path / "rank-00000.safetensors")
        assert facts
        manifest = Manifest(
            step=step,
            updates=step,
            world_size=2,
            zero_stage=2,
            configuration=json.loads(config.model_dump_json()),
            versions={},
            data=DataFacts.of(Dataset.open(data)),
            files={"rank-00000.safetensors": facts},
        )
        (path / MANIFEST).write_text(manifest.sealed().model_dump_json())
    return folder


def test_faults_of_a_run_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", data)
    findings = by_name(check_run(run))
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["resuming"].message == "from step 12 of 20"
    usage = shutil.disk_usage(run)._replace(free=1500)
    with monkeypatch.context() as patch, (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        findings = by_name(check_run(run))
        assert (findings["in use"].level, findings["disk space"].level) == ("note", "fault")
    (checkpoint_path(run, 12) / "rank-00000.safetensors").write_bytes(b"short")
    findings = by_name(check_run(run))
    assert findings["checkpoints"].level == "note"
    assert "step-00000012" in findings["checkpoints"].message
    assert findings["resuming"].message == "from step 6 of 20"
    (checkpoint_path(run, 6) / MANIFEST).unlink()
    findings = by_name(check_run(run))
    assert findings["checkpoints"].level == "fault"
    assert "resuming" not in findings
    other = write_dataset(tmp_path / "other", volumes=4)
    moved = make_run(tmp_path / "moved", data)
    (moved / "config.json").write_text(small_config(other).model_dump_json())
    findings = by_name(check_run(moved))
    assert (findings["resuming"].level, "other volumes" in findings["resuming"].message) == ("fault", True)
    (only,) = check_run(tmp_path)
    assert "config.json is missing" in only.message


def test_the_command_prints_one_line_per_finding_and_sets_its_exit_code(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "check_installation", lambda: iter([Finding("it", "ok", "is well")]))
    run = make_run(tmp_path / "run", data)
    result = CliRunner().invoke(app, ["doctor", "--data", str(data), "--run", str(run)])
    lines = result.stdout.splitlines()
    assert (result.exit_code, lines[0], lines[-1]) == (
        0,
        "ok    installation: it: is well",
        "no faults found",
    )
    assert len(lines) == 2 + 6 + 7
    (data / "dataset.json").rename(tmp_path / "dataset.json")
    result = CliRunner().invoke(app, ["doctor", "--data", str(data)])
    (tmp_path / "dataset.json").rename(data / "dataset.json")
    assert result.exit_code == 1
    assert f"fault dataset {data}: opens: {data} holds no dataset.json" in result.stdout
    assert CliRunner().invoke(app, ["doctor", "--data", str(tmp_path / "nowhere")]).exit_code == 2
