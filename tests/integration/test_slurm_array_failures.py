"""Failures of array jobs on a real Slurm: only missing tasks are repeated, or one line gives the reason.

`FMCT_FAILURES=all` runs them, and with -s prints their part of the table of docs/operations.md.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fault_table import Table
from fault_table import table as table
from slurm_cluster import Cluster
from slurm_training import SITE, rare

from launch.jobs.watch import overview_of
from launch.pipeline.stages import preprocess_jobs
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from preprocess.tasks import ledger
from shards.errors import FmctError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@rare
def test_preprocessing_with_more_tasks_than_the_array_limit_and_one_that_always_crashes(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    def fmct(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "launch.cli", *map(str, arguments)], check=True, timeout=300)

    catalog, key, here, out = (tmp_path / name for name in ("catalog.parquet", "hmac.key", "here", "out"))
    overrides = [f"key_file={key}", "output.shard_mib=1"]
    fmct("demo", "export", tmp_path / "export", "--studies", "24", "--matrix", "64")
    fmct("scan", tmp_path / "export/dicom", "--catalog", catalog)
    fmct("keygen", key)
    fmct("preprocess", catalog, "--out", here, *overrides)
    tasks = ledger.status(here).done
    site = SITE.model_copy(update={"array_size": 3})
    assert tasks > site.array_size

    array, collect = preprocess_jobs(catalog, out, None, overrides, site)
    dies = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    numbers = Slurm(site).submit(
        [replace(array, commands=(*array.commands[:-1], dies)), collect], out / "slurm"
    )
    cluster.wait(numbers[1], 300)
    assert sorted(cluster.states(numbers[0])) == ["COMPLETED", "COMPLETED", "FAILED"]
    status = ledger.status(out)
    assert 0 < status.done < tasks
    endings = overview_of(out, Slurm()).given_up[f"{numbers[0]}_2"]
    assert [ending.cause for ending in endings] == ["crash", "crash"]
    done = f"tried twice, then given up, with its reason; {status.done} of {tasks} tasks done by the others"
    table("an array task dies each time", [], done)

    numbers = Slurm(site).submit(preprocess_jobs(catalog, out, None, overrides, site), out / "slurm")
    assert [cluster.wait(number, 300) for number in numbers] == ["COMPLETED", "COMPLETED"]
    for form in ("zarr/dataset.json", "webdataset/dataset.json"):
        assert (out / form).read_bytes() == (here / form).read_bytes()
    table(
        "submitted again, with more tasks than the array may have",
        [],
        "shared out; only the missing are done",
    )


@rare
def test_a_preprocessing_task_that_exceeds_its_time_limit(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    """The second array task marks task 1, then sleeps beyond its time limit."""
    out = tmp_path / "out"
    script = (
        "import pathlib, sys, time; path = pathlib.Path(sys.argv[1]); "
        "path.parent.mkdir(parents=True, exist_ok=True); path.touch(); "
        "from shards.progress import register; from shards.share import Share; "
        "register('preprocess', path.parents[1], Share(1, 2)); time.sleep(600)"
    )
    never = (sys.executable, "-c", script, str(out / "tasks/00001-0123abcd.json"))
    array = Job(
        "fmct-preprocess",
        ((sys.executable, "-c", "pass"), never),
        SITE.preprocess.model_copy(update={"time_minutes": 1}),
    )
    site = SITE.model_copy(update={"warn_seconds": 20})
    (number,) = Slurm(site).submit([array], out / "slurm")
    cluster.wait(number, 500)
    assert [ending.cause for ending in overview_of(out, Slurm()).given_up[f"{number}_1"]] == [
        "time limit"
    ] * 3
    log = (out / "slurm" / f"{number}_1_0_log.out").read_text()
    assert "3 time limits with 1 tasks done" in log
    assert "so not queued again: give it more time" in log
    table("a task of preprocessing takes longer than its time limit", [], "tried three times, then one line")


@rare
def test_an_array_rejected_by_slurm_is_reported_in_one_line(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    job = Job("many", ((sys.executable, "-c", "pass"),) * 1100, SITE.preprocess)
    with pytest.raises(FmctError, match=r"Slurm rejected many .*nvalid job array") as refused:
        Slurm(SITE).submit([job], tmp_path)
    table("`array_size` above `MaxArraySize`", [], f"refused before anything runs: {refused.value}")
