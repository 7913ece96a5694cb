"""Encoders as named in a configuration, all on the same volumes."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_training import small_config, write_checkpoint, write_dataset

from fmct_hpc.objective.student import Student
from fmct_hpc.probe.config import ProbeConfig
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.encoders import OurEncoder, open_encoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.run import probe
from fmct_hpc.train.attempts import begin
from fmct_hpc.train.checkpoint import MANIFEST, DataFacts, Manifest, part_name
from fmct_hpc.train.convert import convert_weights
from fmct_hpc.train.export import export_encoder
from fmct_hpc.train.pieces import whole_piece, write_pieces
from fmct_hpc.train.state import AVERAGE, WEIGHT
from shards import Dataset
from shards.errors import FmctError

STEP = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("data"), 3, spacing=1.0))


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint and the final encoder with the same weights."""
    folder = tmp_path_factory.mktemp("run")
    # The reference's layout has heads of 64 channels.
    model = {"width": 64, "heads": 1, "positions": "sincos", "drop_path": 0.0}
    config = small_config(dataset.path, model=model)
    torch.manual_seed(0)
    weights = Student(config).state_dict()
    facts = DataFacts.of(dataset)
    export_encoder(folder, weights, config, facts, STEP)
    entries = {f"{WEIGHT}/{name}": tensor for name, tensor in weights.items()}
    write_checkpoint(folder / "checkpoints" / "step-00000003", entries, config, dataset.path)
    begin(folder, config, facts, ["host"], 0)
    return folder


def features(spec: EncoderSpec, dataset: Dataset, out: Path) -> np.ndarray:
    store = extract_store(Extraction(open_encoder(spec), spec.name, dataset), out)
    assert store
    return store.vectors()


def test_a_run_its_checkpoint_and_its_file_are_one_encoder(
    run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    places = (run, run / "checkpoints" / "step-00000003", run / "encoder.safetensors")
    specs = [EncoderSpec(name=f"e{n}", weights=place) for n, place in enumerate(places)]
    opened = [open_encoder(spec) for spec in specs]
    assert len({encoder.digest for encoder in opened}) == 1
    assert [encoder.step for encoder in opened] == [STEP] * 3
    patients = frozenset(dataset.index["patient_key"].to_pylist())
    assert all(spec.pretraining_patients == patients for spec in specs)
    actual = [features(spec, dataset, tmp_path / spec.name) for spec in specs]
    assert (actual[0] == actual[1]).all()
    assert (actual[0] == actual[2]).all()


def test_files_not_in_the_manifest_are_not_read(run: Path, tmp_path: Path) -> None:
    listed = shutil.copytree(run / "checkpoints" / "step-00000003", tmp_path / "step-00000003")
    before = open_encoder(EncoderSpec(name="x", weights=listed)).digest
    foreign = Student(small_config(tmp_path, model={"width": 64, "heads": 1})).state_dict()
    pieces = [whole_piece(f"{AVERAGE}/{name}", tensor) for name, tensor in foreign.items()]
    write_pieces(listed / part_name(1), pieces)
    (listed / part_name(2)).write_bytes(b"no weights at all")
    assert open_encoder(EncoderSpec(name="x", weights=listed)).digest == before


@pytest.mark.parametrize("name", ["../rank-00000.safetensors", "/etc/hostname", ".hidden"])
def test_a_manifest_names_only_files_of_its_folder(run: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(run / "checkpoints" / "step-00000003", tmp_path / "step-00000003")
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    [facts] = manifest.files.values()
    shutil.copyfile(folder / part_name(0), tmp_path / part_name(0))
    sealed = manifest.model_copy(update={"files": {name: facts}}).sealed()
    (folder / MANIFEST).write_text(sealed.model_dump_json())
    with pytest.raises(FmctError, match=r"manifest\.json: missing or damaged"):
        open_encoder(EncoderSpec(name="x", weights=folder))


def test_untrained_weights_follow_the_seed(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    drawn = [open_encoder(EncoderSpec(name="r", weights=run, untrained=seed)) for seed in (5, 5, 1)]
    trained = open_encoder(EncoderSpec(name="t", weights=run))
    assert drawn[0].digest == drawn[1].digest
    assert len({drawn[0].digest, drawn[2].digest, trained.digest}) == 3
    assert drawn[0].step == 0


def test_a_file_of_the_reference_is_an_encoder(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """The same weights, but the reference's field: squeezed to a cube."""
    convert_weights(run / "encoder.safetensors", tmp_path / "reference.pth")
    reference = open_encoder(EncoderSpec(name="reference", weights=tmp_path / "reference.pth"))
    ours = open_encoder(EncoderSpec(name="ours", weights=run))
    assert isinstance(reference, OurEncoder)
    assert reference.info.data.field == "squeezed"
    assert reference.preprocess_digest is None
    assert reference.digest != ours.digest
    view = ours.transform(dataset.read(0), dataset.info.spacing_mm)[None]
    with torch.no_grad():
        for mine, theirs in zip(ours.tokens(view, [0]), reference.tokens(view, [0]), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
    spec = EncoderSpec(name="reference", weights=tmp_path / "reference.pth")
    assert features(spec, dataset, tmp_path / "store").shape == (3, 128)
    assert spec.pretraining_patients is None


def test_a_probe_on_pretraining_patients_can_be_refused(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    study = dataset.index["study_key"][0].as_py()
    pq.write_table(pa.table({"study_key": [study], "bleed": [1]}), tmp_path / "labels.parquet")
    config = ProbeConfig(
        data=dataset.path, labels=tmp_path / "labels.parquet", allow_pretraining_patients=False
    )
    with pytest.raises(
        FmctError, match="encoder trained: 3 of 3 tested patients were in its pretraining data"
    ):
        probe(run, config, tmp_path / "probe", lambda done, total: None)


def test_inputs_that_are_not_encoders_are_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(FmctError, match=r"encoder\.safetensors: no such file"):
        open_encoder(EncoderSpec(name="x", weights=tmp_path))
    with pytest.raises(FmctError, match="put its folder on PYTHONPATH"):
        open_encoder(EncoderSpec(name="x", function="no_such_module:make"))
    with pytest.raises(FmctError, match=r"returned a PosixPath, not an fmct_hpc\.probe\.encoders\.Encoder"):
        open_encoder(EncoderSpec(name="x", function="pathlib:Path"))
    part = run / "checkpoints" / "step-00000003" / part_name(0)
    content = part.read_bytes()
    try:
        part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(FmctError, match="changed or damaged"):
            open_encoder(EncoderSpec(name="x", weights=part.parent))
    finally:
        part.write_bytes(content)
