"""A run that starts from another run's whole state: loaded and random weights, and refused sources."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from shard_samples import make_key
from small_training import small_config, write_checkpoint, write_dataset
from torch import Tensor

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.probe.leakage import pretraining_patients
from fmct_hpc.train.attempts import begin
from fmct_hpc.train.checkpoint import MANIFEST, DataFacts, InitialWeights, read_manifest
from fmct_hpc.train.export import encoder_info, export_checkpoint
from fmct_hpc.train.run import preflight
from fmct_hpc.train.start import initial, require_start
from fmct_hpc.train.weight_files import digests_of
from shards import Dataset
from shards.errors import FmctError
from shards.info import sha256


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data", 3)


def random_state(config: TrainConfig, seed: int) -> dict[str, Tensor]:
    """A checkpoint's entries, with different random weights, averages and centres."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        entries = {f"weight/{name}": torch.randn(t.shape) for name, t in Student(config).named_parameters()}
        for name in entries.copy():
            entries[f"exp_avg/{name.removeprefix('weight/')}"] = torch.ones_like(entries[name])
        if config.objective.distils:
            teacher = Teacher(config).named_parameters()
            entries |= {f"average/{name}": torch.randn(t.shape) for name, t in teacher}
            for kind in ("cls", "patches"):
                entries[f"targets/{kind}.center"] = torch.randn(config.model.prototypes)
    return entries


def first_run(run: Path, config: TrainConfig, data: Path, seed: int = 1, step: int = 3) -> Path:
    """A run folder with a checkpoint that three ranks wrote."""
    begin(run, config, DataFacts.of(Dataset.open(data)), ["host"], 0)
    folder = run / "checkpoints" / f"step-{step:08d}"
    return write_checkpoint(folder, random_state(config, seed), config, data, ranks=3)


def second(data: Path, start: Path, /, **sections: dict[str, object]) -> TrainConfig:
    sections["run"] = {"start_from": str(start), "steps": 7, **sections.get("run", {})}
    sections["data"] = {"view_size": 36, **sections.get("data", {})}
    return small_config(data, **sections)


def interpolated(positions: np.ndarray) -> np.ndarray:
    """(8, width) of a grid of 2 at the centres of a grid of 3: an edge's middle third is the mean."""
    field = positions.reshape(2, 2, 2, -1)
    for axis in range(3):
        low, high = np.split(field, 2, axis=axis)
        field = np.concatenate([low, (low + high) / 2, high], axis=axis)
    return field.reshape(27, -1)


@pytest.mark.parametrize("named", ["run", "checkpoint"])
def test_a_run_starts_with_the_whole_state_of_another(data: Path, tmp_path: Path, named: str) -> None:
    config = small_config(data)
    checkpoint = first_run(tmp_path / "first", config, data)
    state = random_state(config, 1)
    start = tmp_path / "first" if named == "run" else checkpoint
    settings = second(data, start, objective={"mae_weight": 3.0}, data={"field": "squeezed"})
    beginning = require_start(settings, tmp_path / "second")
    assert beginning is not None
    assert (beginning.place, beginning.digest) == (checkpoint, read_manifest(checkpoint).digest)
    student, averages, targets = initial(settings, beginning)
    assert {name: t.shape for name, t in student.named_parameters()}.keys() == {
        key.removeprefix("weight/") for key in state if key.startswith("weight/")
    }
    for kind, tensors in (("weight", dict(student.named_parameters())), ("average", averages)):
        assert len(tensors) == sum(key.startswith(f"{kind}/") for key in state)
        for name, tensor in tensors.items():
            stored = state[f"{kind}/{name}"].numpy()
            expected = interpolated(stored) if name == "encoder.positions" else stored
            np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=0, atol=1e-6)
    assert {name: tensor.tolist() for name, tensor in targets.items()} == {
        f"{kind}.center": state[f"targets/{kind}.center"].tolist() for kind in ("cls", "patches")
    }


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_a_view_of_the_new_size_has_the_same_features(data: Path, tmp_path: Path, positions: str) -> None:
    """Sin-cos positions are computed for the new grid, so the first encoder is built for it too."""
    model: dict[str, object] = {"positions": positions}
    config = small_config(data, model=model)
    first_run(tmp_path / "first", config, data)
    settings = second(data, tmp_path / "first", model=model)
    student = initial(settings, require_start(settings, tmp_path / "second")).student.eval()
    earlier = VisionTransformer(config.model, 3, 24 if positions == "learned" else 36).eval()
    state = random_state(config, 1).items()
    prefix = "weight/encoder."
    earlier.load_state_dict({k.removeprefix(prefix): t for k, t in state if k.startswith(prefix)})
    views = torch.rand(2, 3, 36, 36, 36)
    with torch.no_grad():
        torch.testing.assert_close(student.encoder(views), earlier(views), atol=1e-6, rtol=0)


def test_weights_missing_in_the_other_run_are_drawn_from_the_seed_and_named(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = small_config(data, objective={"dino_weight": 0, "ibot_weight": 0})
    first_run(tmp_path / "first", alone, data)
    settings = second(data, tmp_path / "first", run={"seed": 5})
    with caplog.at_level(logging.INFO):
        student, averages, targets = initial(settings, require_start(settings, tmp_path / "second"))
    assert (averages, targets) == ({}, {})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        drawn = dict(Student(settings).named_parameters())
    state = random_state(alone, 1)
    for name, tensor in student.named_parameters():
        if name.startswith(("encoder.", "decoder.")) and name != "encoder.positions":
            assert torch.equal(tensor, state[f"weight/{name}"]), name
        elif name != "encoder.positions":
            assert torch.equal(tensor, drawn[name]), name
    logged = {line.getMessage().split(":")[0] for line in caplog.records}
    assert {"head and ibot_head and mask_token", "targets' cls.center and patches.center"} <= logged


@pytest.mark.parametrize("shared", [False, True])
def test_a_centre_is_taken_only_with_its_head(data: Path, tmp_path: Path, shared: bool) -> None:
    """One of the two runs has a separate head for patches, whose centre is not that of a shared one."""
    first_run(tmp_path / "first", small_config(data, objective={"ibot_shared_head": shared}), data)
    settings = second(data, tmp_path / "first", objective={"ibot_shared_head": not shared})
    targets = initial(settings, require_start(settings, tmp_path / "second")).targets
    assert set(targets) == {"cls.center"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"width": 48}}, "model.width=24, not 48"),
        ({"model": {"depth": 2}}, "model.depth=1, not 2"),
        ({"model": {"heads": 3}}, "model.heads=2, not 3"),
        ({"model": {"patch_size": 6}}, "model.patch_size=12, not 6"),
        ({"model": {"positions": "sincos"}}, "model.positions=learned, not sincos"),
        ({"model": {"input_mean": 0.4}}, "model.input_mean=0.5, not 0.4"),
        ({"model": {"input_std": [0.3, 0.3, 0.2]}}, "model.input_std=0.3, not (0.3, 0.3, 0.2)"),
        ({"model": {"decoder_heads": 3}}, "model.decoder_heads=2, not 3"),
        ({"model": {"prototypes": 16}}, "head.prototypes.weight has shape (32, 12)"),
        ({"model": {"register_tokens": 2}}, "prefix_positions has shape (2, 18)"),
        ({"data": {"windows": [[40, 80], [80, 200], [600, 2000]]}}, "data.windows="),
    ],
)
def test_another_model_or_input_is_refused_in_one_line(
    data: Path, tmp_path: Path, sections: dict[str, dict[str, object]], message: str
) -> None:
    checkpoint = first_run(tmp_path / "first", small_config(data), data)
    settings = second(data, tmp_path / "first", **sections)
    with pytest.raises(FmctError) as refused:
        preflight(settings, tmp_path / "second", 1)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{checkpoint / MANIFEST}: ")
    assert "\n" not in str(refused.value)


def test_a_run_without_a_checkpoint_restarts_from_the_same_state(data: Path, tmp_path: Path) -> None:
    checkpoint = first_run(tmp_path / "first", small_config(data), data)
    run, settings = tmp_path / "second", second(data, tmp_path / "first")
    beginning = preflight(settings, run, 1).beginning
    assert beginning is not None
    begin(run, settings, DataFacts.of(Dataset.open(data)), ["host"], 0, start_digest=beginning.digest)
    first_run(tmp_path / "first", small_config(data), data, seed=2, step=6)
    assert preflight(settings, run, 1).beginning == beginning
    assert preflight(settings, tmp_path / "third", 1).beginning != beginning
    checkpoint.rename(tmp_path / "away")
    with pytest.raises(FmctError, match=beginning.digest):
        preflight(settings, run, 1)


def test_the_modules_beside_an_encoder_are_part_of_the_start_digest(data: Path, tmp_path: Path) -> None:
    config = small_config(data)
    first_run(tmp_path / "first", config, data)
    export_checkpoint(tmp_path / "first/checkpoints/step-00000003", tmp_path / "first")
    weights = tmp_path / "first/encoder.safetensors"
    head = {n: t for n, t in Student(config).state_dict().items() if n.startswith("head.")}
    assert head
    run, settings = tmp_path / "second", small_config(data, run={"start_from": str(weights), "steps": 7})
    digests = []
    for scale in (None, 1.0, 2.0):
        if scale is not None:
            save_file({n: scale * t for n, t in head.items()}, weights.with_name("head.safetensors"))
        beginning = preflight(settings, tmp_path / "new", 1).beginning
        assert beginning is not None
        digests.append(beginning.digest)
        assert beginning.digest in digests_of(weights), "used to find pretraining patients"
    assert len(set(digests)) == 3
    assert digests[0] == sha256(weights), "as earlier versions record it"
    begin(run, settings, DataFacts.of(Dataset.open(data)), ["host"], 0, start_digest=digests[1])
    with pytest.raises(FmctError, match=digests[1]):
        preflight(settings, run, 1)


def test_a_start_without_an_intact_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FmctError, match=r"encoder\.safetensors"):
        preflight(second(data, tmp_path / "empty"), tmp_path / "second", 1)
    checkpoint = first_run(tmp_path / "first", small_config(data), data)
    part = checkpoint / "rank-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    for start in (tmp_path / "first", checkpoint):
        with pytest.raises(FmctError, match="rank-00001"):
            preflight(second(data, start), tmp_path / "second", 1)


def test_origin_and_patients_follow_a_chain_of_runs(tmp_path: Path) -> None:
    """Each stage has other patients; the last one lists all, while the earlier manifests exist."""
    runs, datas = [tmp_path / f"run-{n}" for n in range(3)], []
    beginning: InitialWeights | None = None
    for number, (run, volumes) in enumerate(zip(runs, (5, 3, 4), strict=True)):
        datas.append(write_dataset(tmp_path / f"data-{number}", volumes))
        config = small_config(datas[-1]) if number == 0 else second(datas[-1], runs[number - 1])
        if number:
            beginning = preflight(config, run, 1).beginning
        digest = beginning.digest if beginning else None
        begin(run, config, DataFacts.of(Dataset.open(datas[-1])), ["host"], 0, start_digest=digest)
        folder = run / "checkpoints" / "step-00000003"
        write_checkpoint(folder, random_state(config, 1), config, datas[-1], 2, beginning)
    (runs[0] / "checkpoints/step-00000003").rename(tmp_path / "kept")
    assert pretraining_patients(runs[2]) is None
    (tmp_path / "kept").rename(runs[0] / "checkpoints/step-00000003")
    for part in runs[0].rglob("rank-*.safetensors"):
        part.unlink()
    patients = frozenset(make_key(number)[::-1] for number in range(5))
    assert pretraining_patients(runs[2]) == patients
    assert pretraining_patients(runs[2] / "checkpoints/step-00000003") == patients
    export_checkpoint(runs[2] / "checkpoints/step-00000003", runs[2])
    digests = [read_manifest(run / "checkpoints/step-00000003").digest for run in runs]
    assert encoder_info(runs[2] / "encoder.safetensors").origin == (
        f"fmct train, begun with: step 3 ({digests[1]}) of fmct train, begun with: step 3 ({digests[0]}) of "
        "fmct train"
    )
    assert str(tmp_path) not in (runs[2] / "encoder.json").read_text()
    first = json.loads((runs[2] / "checkpoints/step-00000003" / MANIFEST).read_text())["beginning"]
    assert first["place"] == str(runs[1] / "checkpoints/step-00000003")
