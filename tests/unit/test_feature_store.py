"""Feature stores: content, shared extraction, and refused inputs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import small_config, write_dataset

from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.encoders import OurEncoder, open_encoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_share, extract_store, progress
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import EncoderInfo
from shards import Dataset
from shards.errors import FmctError
from shards.progress import VARIABLE, registered
from shards.share import Share

VOLUMES, WIDTH, PATCHES = 6, 24, 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("data"), VOLUMES))


@pytest.fixture(scope="module")
def encoder(dataset: Dataset) -> OurEncoder:
    config = small_config(dataset.path, model={"depth": 3})
    info = EncoderInfo(
        step=7,
        model=config.model,
        data=config.data,
        spacing_mm=dataset.info.spacing_mm,
        preprocess_digest=dataset.info.config_digest,
        code_version="test",
    )
    torch.manual_seed(0)
    return OurEncoder(VisionTransformer(config.model, 3, 24).eval(), info)


@torch.no_grad()
def by_hand(encoder: OurEncoder, dataset: Dataset, row: int, blocks: int) -> np.ndarray:
    """Tokens of one volume after the first blocks, by a model with only these blocks."""
    model = encoder.info.model.model_copy(update={"depth": blocks, "size": None})
    short = VisionTransformer(model, 3, 24).eval()
    short.load_state_dict(encoder.module.state_dict(), strict=False)
    return np.asarray(short(encoder.info.view(dataset.read(row), dataset.info.spacing_mm))[0].numpy())


def test_a_store_holds_the_features_of_the_encoder(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path
) -> None:
    request = Extraction(
        encoder, "ours", dataset, layers=(0, -1), tokens=True, batch=4, workers=2, part_volumes=4
    )
    extract_store(request, tmp_path)
    store = FeatureStore.open(tmp_path)
    assert (store.info.layers, store.info.width, store.info.patches) == ((0, 2), WIDTH, PATCHES)
    assert (store.info.name, store.info.step, store.info.dataset_digest) == ("ours", 7, dataset.info.digest)
    assert store.keys.tolist() == dataset.index["key"].to_pylist()
    assert store.patient_keys.tolist() == dataset.index["patient_key"].to_pylist()
    assert store.vectors().shape == (VOLUMES, 2 * WIDTH)
    for layer, blocks in ((0, 1), (-1, 3)):
        for row in (0, 5):
            tokens = by_hand(encoder, dataset, row, blocks)
            patches = tokens[encoder.prefix :]
            assert store.vectors(layer, "cls")[row] == pytest.approx(tokens[0], abs=1e-5)
            assert store.vectors(layer, "mean")[row] == pytest.approx(patches.mean(axis=0), abs=1e-5)
            assert store.tokens(layer)[row] == pytest.approx(patches, abs=2e-3)
    assert isinstance(store.tokens(), np.memmap)
    with pytest.raises(FmctError, match=r"no layer-01\.cls; found layer-00\.cls"):
        store.vectors(1)


def test_array_tasks_share_the_work_without_repeating_any(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract_store(Extraction(encoder, "ours", dataset, batch=2), tmp_path / "whole")
    read: list[int] = []
    original = Dataset.read

    def reading(self: Dataset, i: int) -> np.ndarray:
        read.append(i)
        return original(self, i)

    monkeypatch.setattr(Dataset, "read", reading)
    single = Extraction(encoder, "ours", dataset, part_volumes=1)
    for task in range(3):
        extract_share(single, tmp_path / "s", Share(task, 3))
        with pytest.raises(FmctError, match="no finished feature store"):
            FeatureStore.open(tmp_path / "s")
    assert sorted(read) == list(range(VOLUMES))
    shared = extract_store(single, tmp_path / "s")
    assert np.abs(shared.vectors() - whole.vectors()).max() < 1e-5
    extract_store(replace(single, part_volumes=3), tmp_path / "s")
    assert len(read) == VOLUMES
    assert not (tmp_path / "s" / "parts").exists()


def test_extracted_volumes_are_counted_per_task_and_in_all(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmct_hpc.probe.features.PART_VOLUMES", 2)

    def done(*share: int) -> int | None:
        return progress(tmp_path, Share(*share)).done

    actual, request = [done()], Extraction(encoder, "ours", dataset, part_volumes=2)
    for task in range(2):
        jobs = tmp_path / f"{task}.json"
        monkeypatch.setenv(VARIABLE, str(jobs))
        extract_share(request, tmp_path, Share(task, 2))
        actual += [done(0, 2), done(1, 2), done()]
        [own] = registered(jobs)
        assert (own.ledger, own.place, own.share) == ("features", str(tmp_path), (task, 2))
    assert actual == [0, *(4, 0, 4), *(4, 2, 6)]
    extract_store(request, tmp_path)
    assert done() == done(1, 2) == 6


def test_a_killed_extraction_resumes_and_a_damaged_part_is_made_again(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    request = Extraction(encoder, "ours", dataset, part_volumes=2)
    with pytest.raises(KeyboardInterrupt):
        extract_store(replace(request, batch=1), tmp_path, stop)
    (part,) = (tmp_path / "parts").glob("*.safetensors")
    flip(part)
    with pytest.raises(FmctError, match=f"{part}: its digest does not match; run the same command again"):
        extract_store(request, tmp_path)
    made = []
    extract_store(request, tmp_path, lambda *at: made.append(at))
    assert made[-1] == (2, 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["layer-02.cls.npy", "layer-02.tokens.npy", "index.parquet", "features.json"]
)
def test_a_flipped_bit_is_refused_by_file_name(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path, name: str
) -> None:
    extract_store(Extraction(encoder, "ours", dataset, tokens=True), tmp_path)
    (file,) = tmp_path.rglob(name)
    if name == "features.json":
        file.write_text(file.read_text().replace('"step": 7', '"step": 8'))
    else:
        flip(file)
    with pytest.raises(FmctError, match=re.escape(name)):
        read_all(tmp_path)


def read_all(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.vectors()
    store.tokens()


def test_cohorts_share_a_store_and_another_encoder_replaces_its_features(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path
) -> None:
    read: list[int] = []

    def extract(encoder: OurEncoder, rows: list[int], **choice: Any) -> list[int]:
        """Numbers of the volumes that the store then holds; `read` gets how many were read."""
        read.clear()
        request = Extraction(encoder, "ours", dataset, rows=np.array(rows), **choice)
        store = extract_store(request, tmp_path, lambda *at: read.append(at[0]))
        assert len([child for child in tmp_path.iterdir() if child.is_dir()]) == 1
        return [dataset.position(key) for key in store.keys.tolist()]

    assert extract(encoder, [4, 1]) == [4, 1]
    first = FeatureStore.open(tmp_path)
    before = first.vectors()
    assert extract(encoder, [1]) == [4, 1]
    assert not read
    assert extract(encoder, [5, 1], layers=(0,)) == [1, 4, 5]
    both = FeatureStore.open(tmp_path)
    assert both.info.layers == (0, 2)
    assert both.info.source_digest == first.info.source_digest
    assert both.vectors()[[1, 0]] == pytest.approx(before, abs=1e-5)
    assert extract(encoder, [4, 5], layers=(0, -1)) == [1, 4, 5]
    assert not read
    assert extract(encoder, [4], tokens=True) == [1, 4, 5]
    assert read[-1] == 3

    other = VisionTransformer(encoder.info.model, 3, 24).eval()
    assert extract(OurEncoder(other, encoder.info), [0]) == [0]


def test_volumes_of_another_preprocessing_are_refused(
    dataset: Dataset, encoder: OurEncoder, tmp_path: Path
) -> None:
    other = OurEncoder(encoder.module, encoder.info.model_copy(update={"preprocess_digest": "c" * 64}))
    with pytest.raises(FmctError, match="another configuration than the training data of encoder ours"):
        extract_store(Extraction(other, "ours", dataset), tmp_path)
    with pytest.raises(FmctError, match="layer 3: encoder ours has layers 0 to 2"):
        extract_store(Extraction(encoder, "ours", dataset, layers=(3,)), tmp_path)


def test_a_peers_encoder_is_named_in_a_configuration(dataset: Dataset, tmp_path: Path) -> None:
    spec = EncoderSpec(name="tiny", function="peer_encoder:tiny", arguments={"width": 3})
    store = extract_store(Extraction(open_encoder(spec), spec.name, dataset), tmp_path)
    assert store.vectors().shape == (VOLUMES, 3)
    brain = np.clip(dataset.read(2), 0, 80) / 80
    assert store.vectors(pool="cls")[2] - store.vectors()[1] == pytest.approx(
        brain.mean() - (np.clip(dataset.read(1), 0, 80) / 80).mean(), abs=1e-5
    )
    with pytest.raises(FmctError, match=r"no layer-00\.mean"):
        store.vectors(pool="mean")
    with pytest.raises(FmctError, match="peer_encoder has no large"):
        open_encoder(EncoderSpec(name="x", function="peer_encoder:large"))
    with pytest.raises(ValueError, match="give one of weights and function"):
        EncoderSpec(name="x")
