"""A second stage at a higher resolution on two ranks: it starts from the end of the first, and resumes."""

import json
from pathlib import Path

import pytest
import torch
from forked_ranks import run_forked
from small_training import small_config, write_dataset

from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import newest, parts
from fmct_hpc.train.compare import compare
from fmct_hpc.train.export import encoder_info
from fmct_hpc.train.pieces import PieceFiles
from fmct_hpc.train.state import AVERAGE, TARGETS, WEIGHT, whole_tensors

SECOND = {"stage1": 1, "stage3": 3}
"""ZeRO stages of second stages by name; the first was at stage 3 too."""
STEPS = 4
VIEWS = 36

RANK = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from training_ranks import configuration, whole
from fmct_hpc.train.run import preflight, train

def begun(config, run, name):
    from fmct_hpc.train.loop import Training
    from fmct_hpc.train.process_group import join
    place = join("cpu")
    training = Training(config, place, preflight(config, run, 2).beginning)
    found = {
        "weight": whole(dict(training.engine.module.named_parameters())),
        "average": whole(training.teacher.parameters),
        "targets": training.targets.state_dict(),
        "masters": [piece.values.clone() for piece in training.state.pieces() if "exp_avg" in piece.key],
    }
    torch.save(found, f"{name}-{place.rank}.pt")

def main(folder):
    os.chdir(folder)
    assert train(configuration(folder, "first"), folder / "first") == 0
    for name in ("stage1", "stage3"):
        config, run = configuration(folder, name), folder / name
        begun(config, run, name)
        assert train(config, run) == 0
        assert train(config, folder / f"{name}-resumed", until=2) == 0
        first, away = config.run.start_from, folder / "away"
        dist.barrier()
        if dist.get_rank() == 0:
            first.rename(away)
        dist.barrier()
        assert train(config, folder / f"{name}-resumed") == 0
        if dist.get_rank() == 0:
            away.rename(first)
        dist.barrier()

if __name__ == "__main__":
    main(Path(sys.argv[1]))
"""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    data = write_dataset(folder / "data")
    (folder / "rank.py").write_text(RANK)
    config = small_config(data, engine={"zero_stage": 3}, run={"steps": 3, "checkpoint_every": 3})
    (folder / "first.json").write_text(config.model_dump_json())
    for name, stage in SECOND.items():
        config = small_config(
            data,
            engine={"zero_stage": stage},
            data={"view_size": VIEWS, "local_view_size": 12},
            objective={"mae_weight": 0.5, "koleo_weight": 0.1, "gram_weight": 1.0, "gram_begin": 0},
            run={"steps": STEPS, "checkpoint_every": 2, "start_from": str(folder / "first")},
        )
        (folder / f"{name}.json").write_text(config.model_dump_json())
    assert run_forked(folder / "rank.py", (2, [folder])) == 0
    return folder


def files_of(run: Path) -> PieceFiles:
    latest = newest(run)
    assert latest is not None
    return PieceFiles(parts(*latest))


@pytest.mark.parametrize("name", SECOND)
def test_a_second_stage_starts_with_the_state_and_features_of_the_first(stages: Path, name: str) -> None:
    """On every rank; AdamW's moments are 0."""
    config = small_config(stages / "data")
    files = files_of(stages / "first")
    views = torch.rand(2, 3, VIEWS, VIEWS, VIEWS)
    for rank in range(2):
        actual = torch.load(stages / f"{name}-{rank}.pt")
        for kind in (WEIGHT, AVERAGE):
            first = whole_tensors(files, kind)
            assert first.keys() == actual[kind].keys()
            for key in first.keys() - {"encoder.positions"}:
                assert torch.equal(first[key], actual[kind][key]), key
            features = []
            for weights, size in ((first, 24), (actual[kind], VIEWS)):
                encoder = VisionTransformer(config.model, 3, size).eval()
                own = {key: t for key, t in weights.items() if key.startswith("encoder.")}
                encoder.load_state_dict({key.removeprefix("encoder."): t for key, t in own.items()})
                with torch.no_grad():
                    features.append(encoder(views))
            torch.testing.assert_close(*features, atol=1e-6, rtol=0)
        centres = whole_tensors(files, TARGETS)
        assert centres.keys() == actual["targets"].keys()
        assert all(torch.equal(centres[key], actual["targets"][key]) for key in centres)
        assert all(centre.any() for centre in centres.values())
        assert actual["masters"]
        assert not any(moment.any() for moment in actual["masters"])


@pytest.mark.parametrize("name", SECOND)
def test_a_second_stage_resumes_bit_for_bit_without_the_first(stages: Path, name: str) -> None:
    whole, resumed = stages / name, stages / f"{name}-resumed"
    assert compare(whole, resumed) == STEPS
    ours, theirs = newest(whole), newest(resumed)
    assert ours is not None
    assert theirs is not None
    assert (ours[1].step, ours[1].files) == (STEPS, theirs[1].files)
    assert ours[1].beginning == theirs[1].beginning
    first = newest(stages / "first")
    assert first is not None
    assert [attempt.start_digest for attempt in attempts(resumed)] == 2 * [first[1].digest]
    origin = encoder_info(resumed / "encoder.safetensors").origin
    assert origin == f"fmct train, begun with: step 3 ({first[1].digest}) of fmct train"


def test_second_stages_of_one_state_learn_equally_at_stages_1_and_3(stages: Path) -> None:
    rows = [
        [json.loads(line) for line in (stages / name / "metrics.jsonl").read_text().splitlines()]
        for name in SECOND
    ]
    for ours, theirs in zip(*rows, strict=True):
        for key in ("loss", "dino", "ibot", "mae", "gram", "gradient_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4), (ours["step"], key)
