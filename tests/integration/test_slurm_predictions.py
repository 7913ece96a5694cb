"""Predictions and relevance maps of an array on a real Slurm equal those of one process."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from slurm_cluster import Cluster
from slurm_commands import SBATCH, SITE, launched, logs, run
from small_sweep import bright_sweep

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.table import Predictions

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled volumes and a classifier, `data` and `kept`."""
    folder = tmp_path_factory.mktemp("classified")
    write_classifier(fit(bright_sweep(folder), method="logistic"), folder / "kept")
    return folder


def linked(classified: Path, folder: Path) -> None:
    for name in ("data", "kept"):
        (folder / name).symlink_to(classified / name)


def test_maps_of_an_array_equal_those_of_one_process(
    cluster: Cluster, classified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    linked(classified, tmp_path)
    words = ["relevance", "data", "--classifier", "kept", "--method", "rollout"]
    given = ["--site", str(SITE), "--tasks", "2", "--", *words, "--out", "launched"]
    lines = run("fmct", "launch", "array", *given).splitlines()
    array, joined = (line.split("job ")[1].split(",")[0] for line in lines)
    run("fmct", *words, "--out", "here")
    assert cluster.wait(joined, 300) == "COMPLETED", logs(tmp_path)
    assert cluster.states(array) == ["COMPLETED"] * 2
    for name in ("relevance.parquet", "relevance.html"):
        of_array, of_one = ((tmp_path / way / name).read_bytes() for way in ("launched", "here"))
        assert of_array == of_one


def test_predictions_of_an_array_equal_those_of_one_run(
    cluster: Cluster, classified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    linked(classified, tmp_path)
    paths = ["data", "data", "nothing", "data"]
    jobs = launched("predict", *paths, "--classifier", "kept", "--out", "launched")
    script: tuple[str | Path, ...] = (
        SBATCH / "predict.sbatch",
        *paths,
        "--classifier",
        "kept",
        "--out",
        "sbatch",
    )
    array = run("sbatch", "--parsable", "--array=0-1", *script).strip()
    last = run("sbatch", "--parsable", f"--dependency=afterany:{array}", *script, "--collect").strip()
    here = Predictions([Path(path) for path in paths], Path("kept"), Path("here"))
    here.run()
    assert [reason.partition(":")[0] for reason in here.collect().refused] == ["path 2"]
    assert [cluster.wait(number, 200) for number in jobs] == ["COMPLETED", "COMPLETED"], logs(tmp_path)
    assert len(cluster.states(jobs[0])) > 3, "expected an array"
    assert cluster.wait(last, 200) == "COMPLETED", "a refused path has a row"
    first, *others = (
        pq.read_table(tmp_path / way / "predictions.parquet") for way in ("here", "launched", "sbatch")
    )
    assert first.num_rows == 3 * 60 + 1
    assert all(first.equals(other) for other in others)
