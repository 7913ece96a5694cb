"""docs/architecture.md, "How to add an encoder", applied literally to a copy of the packages."""

import json
from pathlib import Path

import pytest
from documented_example import AppliedExample, follow
from safetensors.numpy import load_file
from small_training import small_config, write_dataset, write_recipe

KEYS = (
    *("model.kind=convnet", "model.width=24", "model.depth=2", "model.heads=12", "model.positions=sincos"),
    *("model.register_tokens=4", "objective.mae_weight=0", "objective.ibot_weight=0"),
)
"""Overrides of the small recipe, whose other keys are for a ViT."""

USED = """
import json
import sys
from pathlib import Path

import numpy as np
import torch

import fmct_hpc
from fmct_hpc.config import TrainConfig
from fmct_hpc.hub.write import export_hub
from fmct_hpc.model.size import encoder_flops, parameter_counts
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.finetune import Rows, finetune
from fmct_hpc.probe.methods.finetune import FinetuneConfig
from fmct_hpc.relevance.maps import Explainer
from launch.config import load
from shards import Dataset
from shards.errors import FmctError

recipe, run, data = map(Path, sys.argv[1:4])
config = load(TrainConfig, recipe, sys.argv[4:])
fmct_hpc.pretrain(config, run)
model, info = load_weights(run)
found = {"parameters": parameter_counts(config)["encoder"], "flops": encoder_flops(config)}
volumes = Dataset.open(data)
views = torch.stack([info.view(volumes.read(n), volumes.info.spacing_mm)[0] for n in range(len(volumes))])
with torch.no_grad():
    tokens = model(views).numpy()
expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
request = Extraction(OurEncoder(model, info), "convnet", volumes, layers=(0, 1))
store = extract_store(request, run.parent / "features")
found["stored"] = np.allclose(store.vectors(1), expected, atol=1e-5)
scan = next(fmct_hpc.features(data, run))
with torch.no_grad():
    (of_scan,) = model(views[:1]).numpy()
found["scanned"] = np.allclose(np.vstack([scan.cls, scan.patches]), of_scan, atol=1e-5)
found["shapes"] = tokens.shape, scan.centres_mm.shape
rows = np.arange(6)
tuned = finetune(
    model, views, (rows[:, None] % 2).astype(np.float32), Rows(rows, rows, rows), FinetuneConfig(steps=1)
)
found["tuned"] = tuned.scores.shape


def refusal(call):
    try:
        call()
    except (FmctError, ValueError) as error:
        return str(error)


def changed(**sections):
    whole = {name: {**section, **sections.get(name, {})} for name, section in config.model_dump().items()}
    return lambda: TrainConfig.model_validate(whole)


found["refused"] = {
    "objective.mae_weight": refusal(changed(objective={"mae_weight": 1.0})),
    "objective.ibot_weight": refusal(changed(objective={"ibot_weight": 1.0})),
    "model.keep_tokens": refusal(changed(model={"keep_tokens": 0.5})),
    "model.size": refusal(changed(model={"size": "S"})),
    "model.kind=convnet": refusal(lambda: Explainer(OurEncoder(model, info))),
    "model.kind=vit": refusal(lambda: export_hub(run, run.parent / "hub", "mit")),
}
(run / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> AppliedExample:
    return follow("How to add an encoder", tmp_path_factory.mktemp("copy"))


def test_the_documented_encoder_is_pretrained_exported_and_gives_features(
    copy: AppliedExample, tmp_path: Path
) -> None:
    copy.lint()
    data, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    recipe = write_recipe(small_config(data, run={"steps": 2}), tmp_path / "recipe.yaml")
    copy.run("-c", USED, str(recipe), str(run), str(data), *KEYS)
    actual = json.loads((run / "found.json").read_bytes())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(row["gradient_norm"] > 0 for row in metrics)
    assert json.loads((run / "encoder.json").read_bytes())["model"]["kind"] == "convnet"
    weights = load_file(run / "encoder.safetensors")

    assert actual["parameters"] == sum(weight.size for weight in weights.values())
    patches, width, hidden = 2**3, 24, 96
    by_hand = patches * (3 * 12**3 * width + 2 * (7**3 * width + 2 * width * hidden))
    assert actual["flops"] == 2 * by_hand
    assert actual["shapes"] == [[6, 1 + patches, width], [patches, 3]]
    assert (actual["stored"], actual["scanned"]) == (True, True)
    assert actual["tuned"] == [6, 1]
    for key, message in actual["refused"].items():
        assert message is not None, key
        assert key in message
