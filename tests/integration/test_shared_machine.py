"""Every stage on a restricted machine: no home, an unknown user, a read-only installation."""

import os
import shutil
import sys
from pathlib import Path

import yaml
from preprocess_export import make_export
from restricted import confined
from small_training import small_config, write_dataset, write_recipe

from shards import Dataset, caches

NOTHING = {"HOME": None, "XDG_CACHE_HOME": None, caches.VARIABLE: None}


def on_a_poor_machine(place: Path, *arguments: object) -> None:
    """Run a command in the output folder; only this and a temporary folder are writable."""
    out = place / "out"
    for folder in (out, place / "tmp"):
        folder.mkdir(exist_ok=True)
    result = confined(
        [sys.executable, "-P", "-m", "launch.cli", *map(str, arguments)],
        cwd=out,
        writable=[out, place / "tmp"],
        read_only=[Path("/"), place],
        known=False,
        shared_memory_kib=16_384,
        environment={**NOTHING, "TMPDIR": str(place / "tmp")},
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr


def test_every_stage_works_without_a_home(tmp_path: Path) -> None:
    if here := caches.place():  # modules that are compiled need not be compiled again
        there = tmp_path / "tmp" / f"fmct-cache-{os.getuid()}"
        there.mkdir(mode=0o700, parents=True)
        shutil.copytree(here / "numba", there / "numba")
    export = make_export(tmp_path / "export", studies=2)
    out = tmp_path / "out"
    recipe = tmp_path / "preprocess.yaml"
    recipe.write_text(yaml.safe_dump(export.config(workers=2).model_dump(mode="json")))
    on_a_poor_machine(tmp_path, "preprocess", export.catalog, "--config", recipe, "--out", out / "data")
    assert len(Dataset.open(out / "data" / "zarr")) == 2

    data = write_dataset(tmp_path / "train")
    config = small_config(data, data={"workers": 1}, run={"steps": 2, "images_every": 1})
    training = write_recipe(config, tmp_path / "train.yaml")
    on_a_poor_machine(tmp_path, "train", "--config", training, "--run", out / "run")
    encoder = out / "run" / "encoder.safetensors"
    on_a_poor_machine(tmp_path, "features", data, "--encoder", encoder, "--out", out / "features")
    page = out / "report.html"
    on_a_poor_machine(tmp_path, "report", page, "--run", out / "run", "--data", out / "data")
    made = sorted(path.name for path in out.iterdir())
    assert made == ["data", "features", "report.html", "report.md", "run"]
