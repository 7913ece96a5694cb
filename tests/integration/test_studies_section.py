"""docs/probes.md, "Studies": its encoder, its sweep and its commands, on fewer and coarser heads."""

import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from documents import REPOSITORY, blocks, substituted
from small_training import small_encoder
from typer.testing import CliRunner

from launch.cli import app
from preprocess.demo.axial import SLICE_MM
from preprocess.demo.plan import Quirk
from shards import Dataset
from shards.roles import study_roles

SIZES = {
    "--studies 120 --matrix 64": "--studies 9 --matrix 48 --workers 1",
    "'grid.spacing_mm=[1.25,4,4]'": "'grid.spacing_mm=[5,5,5]' workers=1",
    "{steps: 200, batch: 16, check_every: 50}": "{steps: 2, batch: 4}",
    " --out sweeps/": " bootstrap=20 folds=3 'attentive={steps: 10}' --out sweeps/",
    "--catalog catalog.parquet": "--catalog catalog.parquet --workers 1",
}


def test_the_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = REPOSITORY / "docs/probes.md"
    (tmp_path / "launch").symlink_to(REPOSITORY / "launch")
    (encoder,) = blocks(probes, "python", "Studies")
    (tmp_path / "lines.py").write_text(encoder)
    (sweep,) = blocks(probes, "yaml", "Studies")
    (tmp_path / "studies.yaml").write_text(sweep)
    tmp_path.chmod(0o700)  # its sweep names code
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SLICE_MM, Quirk.FINE, 2.4)  # half as many slices, still thin
    script = substituted("".join(blocks(probes, "bash", "Studies")).replace("\\\n", ""), SIZES)
    for line in script.replace("PYTHONPATH=. ", "").splitlines():
        words = shlex.split(line)[1:]
        if words[0] == "keygen":  # a study's part depends on the key
            (tmp_path / "hmac.key").write_text("0123456789abcdef" * 4)
            (tmp_path / "hmac.key").chmod(0o600)
        elif words[0] == "train":  # the quickstart's test runs it
            small_encoder(tmp_path / "data/zarr", tmp_path / "runs/vit")
        else:
            result = CliRunner().invoke(app, words, catch_exceptions=False)
            assert result.exit_code == 0, result.output
    recipe = yaml.safe_load(sweep)
    results = pq.read_table(tmp_path / "sweeps/mean/results.parquet").to_pylist()
    actual = {(row["encoder"], row["method"], row["sample"]) for row in results if row["reason"] is None}
    names = [encoder["name"] for encoder in recipe["encoders"]]
    assert actual == {(n, m, s) for n in names for m in recipe["methods"] for s in recipe["samples"]}
    compared = pq.read_table(tmp_path / "sweeps/max/comparisons.parquet").to_pylist()
    own = [row for row in compared if row["encoder"] == row["versus"]]
    assert {(row["sample"], row["versus_sample"]) for row in own} == {("best", "study")}
    roles = study_roles(Dataset.open(tmp_path / "data/zarr").index).roles.tolist()
    assert {"bone_thin", "soft_thick"} <= set(roles)
