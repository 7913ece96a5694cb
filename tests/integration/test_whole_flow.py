"""The stages in sequence, as a user runs them: from an export to a report, and errors between them."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from forked_commands import forked_fmct
from PIL import Image
from small_training import small_config, write_recipe

from shards import Dataset
from shards.lock import LOCK_NAME, writing

pytestmark = pytest.mark.timeout(600)


def fmct(*arguments: object, code: int = 0, folder: Path | None = None) -> str:
    """Run a command and return its standard output, or standard error if it must fail."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*forked_fmct(), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("flow")
    fmct("demo", "export", "export", "--studies", 16, "--matrix", 64, folder=folder)
    fmct("keygen", "hmac.key", folder=folder)
    fmct("scan", "export/dicom", "--catalog", "catalog.parquet", folder=folder)
    overrides = ("key_file=hmac.key", "grid.spacing_mm=[4, 4, 4]")
    fmct("preprocess", "catalog.parquet", "--out", "data", *overrides, folder=folder)
    arguments = ("export/labels.csv", "--key-file", "hmac.key", "--out", "labels.parquet")
    fmct("labels", *arguments, folder=folder)
    write_recipe(small_config(Path("data/webdataset")), folder / "recipe.yaml")
    fmct(
        "train", "--config", "recipe.yaml", "--run", "run", "run.steps=4", "run.images_every=2", folder=folder
    )
    probed = ("data=data/zarr", "labels=labels.parquet", "folds=3", "bootstrap=100")
    fmct("probe", "run", "--out", "probe", *probed, folder=folder)
    fmct("report", "report.html", "--data", "data", "--run", "run", "--probe", "probe", folder=folder)
    return folder


def test_both_formats_hold_the_same_voxels_and_pass_verification(flow: Path) -> None:
    zarr, webdataset = (Dataset.open(flow / "data" / form) for form in ("zarr", "webdataset"))
    assert len(zarr) == len(webdataset) == 16
    assert zarr.content_digest() == webdataset.content_digest()
    for i in range(len(zarr)):
        assert zarr.record(i) == webdataset.record(i)
        assert np.array_equal(zarr.read(i), webdataset.read(i))
    for form in ("zarr", "webdataset"):
        assert "verified, all digests match" in fmct("shards", "verify", flow / "data" / form)


def test_nothing_that_any_stage_wrote_is_readable_by_everybody(flow: Path) -> None:
    """At the usual umask 022 others could read them: images of heads, checkpoints, logs."""
    recipe = flow / "recipe.yaml"  # the tests wrote that one
    open_to_all = [path for path in flow.rglob("*") if path.stat().st_mode & 0o007 and path != recipe]
    assert open_to_all == []


PREPROCESS = "preprocess catalog.parquet --out data key_file=hmac.key grid.spacing_mm=[4,4,4]"


@pytest.mark.parametrize(
    ("held", "command"),
    [
        ("data", PREPROCESS),
        ("data", f"{PREPROCESS} --plan"),
        ("data", f"{PREPROCESS} --collect"),
        ("data", f"{PREPROCESS} --share 0/1"),
        ("held", "shards convert data/zarr --out held --to webdataset"),
        ("held", "shards merge data/zarr --out held"),
        ("held", "shards sample data/zarr --out held --volumes 1"),
        ("held/a", "shards split data/zarr --out held a=0.5 b=0.5"),
        ("run", "train --config recipe.yaml --run run run.steps=4 run.images_every=2 --ranks 1"),
        ("probe", "probe run --out probe data=data/zarr labels=labels.parquet folds=3 bootstrap=100"),
        ("probe", "sweep sweep.yaml --out probe"),
        ("held", "features data/zarr --encoder run --out held"),
        ("held", "study --out held"),
        (".catalog.parquet.scan", "scan export/dicom --catalog catalog.parquet"),
    ],
)
def test_an_output_that_another_process_holds_is_refused_with_its_name(
    flow: Path, held: str, command: str
) -> None:
    encoders = "[{name: trained, weights: run}]"
    (flow / "sweep.yaml").write_text(
        f"{{data: data/zarr, labels: labels.parquet, features: probe/features, encoders: {encoders}, "
        "methods: [logistic], folds: 3, bootstrap: 100, allow_pretraining_patients: true}\n"
    )
    name = ".probe.lock" if command.startswith("probe") else LOCK_NAME
    private = flow / held if held.startswith(".") else None
    if private:
        private.mkdir(mode=0o700)
    with writing(flow / held, "the test", name=name):
        output = fmct(*command.split(), code=2, folder=flow)
        assert f"process {os.getpid()}" in output.splitlines()[-1]
        assert "Traceback" not in output
    shutil.rmtree(private or flow / "held", ignore_errors=True)
    (flow / "sweep.yaml").unlink()


def test_the_table_holds_the_trained_and_the_untrained_encoder(flow: Path) -> None:
    rows = json.loads((flow / "probe/results.json").read_text())["rows"]
    actual = {(row["task"], row["head"], row["encoder"]) for row in rows}
    assert {
        ("any_bleed", h, e) for h in ("logistic", "neighbours") for e in ("trained", "untrained")
    } <= actual
    for row in rows:
        value, low, high = row["auc"]
        assert 0 <= low <= value <= high <= 1
    # Two encoders may rank 16 volumes equally; their scores differ.
    scores = pq.read_table(flow / "probe/predictions.parquet").to_pylist()
    trained, untrained = (
        [row["score"] for row in scores if row["encoder"] == encoder] for encoder in ("trained", "untrained")
    )
    assert len(trained) == len(untrained) > 0
    assert trained != untrained


def test_a_probe_marks_the_checkpoint_that_it_probed(flow: Path) -> None:
    [note] = (flow / "run/checkpoints").glob("*.score.json")
    assert note.with_name(note.name.removesuffix(".score.json")).is_dir()
    rows = json.loads((flow / "probe/results.json").read_text())["rows"]
    linear = [row["auc"][0] for row in rows if (row["head"], row["encoder"]) == ("logistic", "trained")]
    assert json.loads(note.read_text())["score"] == pytest.approx(sum(linear) / len(linear))


def test_the_report_needs_nothing_beside_it_and_every_picture_shows_something(flow: Path) -> None:
    page = (flow / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    assert len(pictures) >= 5, "montage, two reconstructions, two images of attention"
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L"), float)
        assert pixels.std() > 10, "a blank image"
    for text in ("bone kernel", "any_bleed", "untrained", "truncated pixel data"):
        assert text in page
    card = (flow / "report.md").read_text()
    for text in (
        "## Intended use",
        "## Out of scope",
        "bone kernel",
        "any\\_bleed",
        "untrained",
        "## Limits",
    ):
        assert text in card
    for written in (page, card):
        assert str(flow) not in written
        assert "data/zarr" not in written, "the configuration's paths"


def one_line(message: str) -> str:
    [line] = [line for line in message.splitlines() if line.startswith("fmct: ")]
    assert message.strip().splitlines()[-1] == line
    return line


@pytest.mark.parametrize(
    ("prepare", "arguments", "expected"),
    [
        (None, ("scan", "absent", "--catalog", "c.parquet"), "absent"),
        ("empty", ("scan", "empty", "--catalog", "c.parquet"), "empty"),
        ("text", ("scan", "text", "--catalog", "c.parquet"), "DICOM"),
        (None, ("preprocess", "absent.parquet", "--out", "d", "key_file=k"), "absent.parquet"),
        (None, ("preprocess", "c", "--out", "d", "key_file=k", "grid.spacing=1"), "did you mean spacing_mm"),
        (None, ("train", "--run", "r", "data.path=absent"), "absent"),
        (None, ("train", "--run", "r", "data.path=d", "model.dpeth=2"), "did you mean depth"),
        (None, ("probe", "absent", "--out", "p", "data=d", "labels=l"), "d"),
        (None, ("shards", "verify", "absent"), "absent"),
        (None, ("report", "r.html", "--data", "d", "--run", "r", "--probe", "p"), "fmct"),
    ],
)
def test_a_mistake_is_one_line_with_code_2_and_leaves_nothing(
    tmp_path: Path, prepare: str | None, arguments: tuple[str, ...], expected: str
) -> None:
    if prepare:
        (tmp_path / prepare).mkdir()
    if prepare == "text":
        (tmp_path / "text/readme.txt").write_text("no image")
    before = sorted(tmp_path.rglob("*"))
    assert expected in one_line(fmct(*arguments, code=2, folder=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_byte_in_a_shard_stops_training_with_its_name(flow: Path, tmp_path: Path) -> None:
    [shard] = (flow / "data/zarr").glob("*.zarr.zip")
    whole = shard.read_bytes()
    index = Dataset.open(flow / "data/zarr").index
    place = index["offset"][0].as_py() + index["length"][0].as_py() // 3
    try:
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        arguments = ("data.path=data/zarr", "run.steps=8")
        message = fmct(
            *("train", "--config", "recipe.yaml", "--run", tmp_path / "run", *arguments), code=2, folder=flow
        )
        assert shard.name in one_line(message)
        assert index["key"][0].as_py() in one_line(message)
        assert not list((tmp_path / "run").glob("checkpoints/step-*"))
        assert shard.name in one_line(fmct("shards", "verify", flow / "data/zarr", code=2))
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize("command", ["", "scan", "preprocess", "train", "probe", "report", "launch train"])
def test_help_says_what_a_command_does_and_takes(command: str) -> None:
    text = fmct(*command.split(), "--help")
    assert "Usage:" in text
    assert len(text.split()) > 40
