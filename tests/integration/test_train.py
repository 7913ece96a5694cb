"""Training on real ranks: resume to the last bit, ZeRO stages, kills, signals, damage."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import training_ranks
from forked_ranks import run_forked
from small_training import (
    BATCH,
    VOLUMES,
    run_training,
    start_training,
    write_dataset,
    write_recipe,
)
from training_ranks import BREAK, CHECKPOINT_EVERY, STEPS, lost
from training_variants import (
    ANCHORED,
    ANCHORED_STEPS,
    ELASTIC,
    GRAM,
    RESUMED,
    VARIANTS,
    anchored,
    configured,
)
from training_variants import runs as runs  # a fixture

import fmct_hpc
from fmct_hpc import load_encoder
from fmct_hpc.train.attempts import attempts, conclude
from fmct_hpc.train.checkpoint import Manifest, newest, newest_step
from fmct_hpc.train.compare import compare
from fmct_hpc.train.run import preflight
from shards import FmctError
from shards.info import NO_CONFIGURATION

STOP_REASONS = {"SIGUSR1": "SIGUSR1", "SIGUSR2": "SIGUSR2", "time": "time limit"}
KILLS = int(os.environ.get("FMCT_KILLS", "2"))
"""How often ranks are killed: 50 in the long test (docs/training.md)."""

pytestmark = pytest.mark.timeout(600 + 100 * KILLS)


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def last_checkpoint(run: Path) -> Manifest:
    latest = newest(run)
    assert latest is not None
    return latest[1]


def assert_same_run(first: Path, second: Path, steps: int = STEPS) -> None:
    """Every loss, and the final weights, moments and averages, are bitwise equal."""
    assert compare(first, second) == steps
    ours, theirs = last_checkpoint(first), last_checkpoint(second)
    assert (ours.step, ours.files) == (theirs.step, theirs.files)


def assert_learns_alike(run: Path, other: Path, steps: int = STEPS) -> None:
    assert [row["step"] for row in metrics(run)] == list(range(1, steps + 1))
    for ours, theirs in zip(metrics(run), metrics(other), strict=True):
        for name in ("loss", "dino", "mae", "teacher_entropy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (ours["step"], name)


@pytest.mark.parametrize("variant", RESUMED)
def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(runs: Path, variant: str) -> None:
    steps = ANCHORED_STEPS if variant in ANCHORED else STEPS
    assert [row["step"] for row in metrics(runs / f"{variant}-resumed")] == list(range(1, steps + 1))
    assert_same_run(runs / variant, runs / f"{variant}-resumed", steps)
    before = BREAK if variant.startswith("stage") else lost(steps)
    assert attempts(runs / f"{variant}-resumed")[-1].first_step == before + 1


def test_a_damaged_volume_is_counted_and_a_resume_agrees_on_its_substitute(runs: Path) -> None:
    assert_same_run(runs / "skipping", runs / "skipping-resumed")
    counts = [row["damaged_volumes"] for row in metrics(runs / "skipping")]
    assert counts == sorted(counts)
    assert counts[-1] >= STEPS * BATCH // VOLUMES  # once per epoch, on any rank
    assert all(row["data_wait_seconds"] >= 0 for row in metrics(runs / "skipping"))


@pytest.mark.parametrize("variant", ["stage1", "stage2", "stage3", "offload2", "offload3"])
def test_zero_stages_and_offload_train_as_stage_0(runs: Path, variant: str) -> None:
    assert_learns_alike(runs / variant, runs / "stage0")


def test_ranks_of_stages_0_to_2_import_neither_torchs_compiler_nor_pandas(runs: Path) -> None:
    """The compiler would double the CPU time of a rank's start; at stage 3 DeepSpeed loads it."""
    assert [json.loads((runs / f"unneeded-{rank}.json").read_text()) for rank in range(2)] == [[], []]


def test_two_view_sizes_and_lejepa_train_equally_at_stages_1_to_3(runs: Path) -> None:
    first = metrics(runs / "smaller-1")
    for other in ("smaller-2", "smaller-3"):
        assert_learns_alike(runs / other, runs / "smaller-1")
        actual = [(row["lejepa"], row["lejepa_sigreg"]) for row in metrics(runs / other)]
        assert actual == [pytest.approx((row["lejepa"], row["lejepa_sigreg"]), rel=2e-4) for row in first]
    assert first[0]["dino"] != metrics(runs / "stage0")[0]["dino"]
    assert first[0]["mae"] == metrics(runs / "stage0")[0]["mae"]


def test_gram_anchoring_and_its_refresh_are_equal_at_all_stages(runs: Path) -> None:
    for other in ("gram-1", "gram-3"):
        assert_learns_alike(runs / other, runs / "gram-0", ANCHORED_STEPS)
    losses = [row["gram"] for row in metrics(runs / "gram-0")]
    weights = [row["gram_weight"] for row in metrics(runs / "gram-0")]
    begin = round(ANCHORED_STEPS * GRAM["gram_begin"])
    assert losses[:begin] == weights[:begin] == [0.0] * begin
    assert all(loss > 0 for loss in losses[begin:])
    assert weights[begin:] == [GRAM["gram_weight"]] * (ANCHORED_STEPS - begin)
    # At a refresh the anchor is the current teacher, which is near the student; then they diverge.
    refreshed = [step for step in range(begin, ANCHORED_STEPS) if (step - begin) % 3 == 0]
    later = [step + 2 for step in refreshed if step + 2 < ANCHORED_STEPS]
    assert sum(losses[step] for step in refreshed[1:]) < sum(losses[step] for step in later)


def test_bf16_trains_as_float32_at_stages_0_and_3(runs: Path) -> None:
    """ZeRO exchanges bfloat16 between ranks, so stage 3 rounds more than stage 0."""
    exact = [row["loss"] for row in metrics(runs / "stage0")]
    for name in ("bf16-0", "bf16-3"):
        losses = [row["loss"] for row in metrics(runs / name)]
        assert losses == pytest.approx(exact, rel=0.05)
        assert losses != pytest.approx(exact, rel=1e-5), "bfloat16 has an effect"


def test_a_run_resumes_with_other_ranks_and_stages(runs: Path, tmp_path: Path) -> None:
    for ranks, engine in ELASTIC.items():
        config = anchored(runs / "data", engine)
        (tmp_path / f"{ranks}.json").write_text(config.model_dump_json())
    starts = ((1, 3), (2, 6), (4, 11), (1, ANCHORED_STEPS))
    groups = [(ranks, ("elastic", tmp_path, f"{ranks}", f"{until}")) for ranks, until in starts]
    assert run_forked(training_ranks.__file__, *groups) == 0
    assert_learns_alike(tmp_path / "elastic", runs / "gram-0", ANCHORED_STEPS)
    ours = load_encoder(tmp_path / "elastic/encoder.safetensors")[0].state_dict()
    theirs = load_encoder(runs / "gram-0/encoder.safetensors")[0].state_dict()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_each_rank_updates_its_part_of_the_teacher_without_communication(runs: Path, stage: str) -> None:
    for rank in range(2):
        facts = json.loads((runs / f"teacher-{stage}-{rank}.json").read_text())
        assert facts["control"], "the recorder sees collectives"
        assert facts["collectives"] == []
        assert facts["error"] < 1e-6 < facts["moved"]
        share = facts["held"] / facts["whole"]
        assert share == 1 if stage == "stage2" else 0.5 <= share < 0.52  # each slice is padded to a multiple


def test_signals_and_time_limits_of_one_rank_make_all_save_and_exit(runs: Path) -> None:
    stops = json.loads((runs / "stopped/stops.json").read_text())
    assert 0 < stops["SIGUSR1"] < stops["SIGUSR2"] < stops["time"] == stops["SIGUSR2"] + 1 < STEPS
    assert_same_run(runs / "stopped", runs / "stage2")


def test_each_attempt_is_recorded(runs: Path) -> None:
    stops = json.loads((runs / "stopped/stops.json").read_text())
    recorded = [(a.cause, a.detail, a.last_step, a.lost_steps) for a in attempts(runs / "stopped")]
    assert recorded == [
        *(("time limit", reason, stops[key], 0) for key, reason in STOP_REASONS.items()),
        ("done", "", STEPS, 0),
    ]
    # The time before its limit at which an attempt stops depends on the longest save.
    longest = [attempt.save_seconds for attempt in attempts(runs / "stopped")]
    assert 0 < longest[0] <= longest[1] <= longest[-1]
    conclude(runs / "full")
    ended, *failures = attempts(runs / "full")
    assert (ended.cause, ended.first_step, ended.last_step) == ("done", 1, BREAK)
    assert len(failures) == 2
    for failed in failures:
        assert (failed.first_step, failed.world_size, list(failed.hosts.values())) == (BREAK + 1, 2, [[0, 1]])
        assert (failed.cause, failed.exit_code) == ("refused", 2)
        assert "can't be written" in failed.detail


@pytest.mark.parametrize("room", ["kept", "not-kept"])
def test_a_rank_that_cannot_write_ends_all_and_earlier_checkpoints_remain(runs: Path, room: str) -> None:
    output, other = ((runs / f"full/ended-{room}-{rank}.txt").read_text() for rank in range(2))
    assert "rank-00001.safetensors: can't be written" in output
    assert other == "2", "other ranks end with that exit code, without output"
    assert last_checkpoint(runs / "full").step == BREAK
    lost = {"kept": 1, "not-kept": 2}[room]
    unsaved = (BREAK // CHECKPOINT_EVERY + 1) * CHECKPOINT_EVERY
    assert attempts(runs / "full")[lost].last_step == unsaved, "nothing is trained that can't be saved"
    assert not list((runs / "full/checkpoints").glob(".*")), "their space is free for others"


def test_training_reduces_the_loss_and_writes_reconstructions(runs: Path) -> None:
    losses = [row["mae"] for row in metrics(runs / "stage2")]
    assert sum(losses[-5:]) < sum(losses[:5])
    images = sorted(path.name for path in (runs / "stage2/reconstructions").iterdir())
    assert images == [f"step-{step:08d}.png" for step in (STEPS // 2, STEPS)]


def test_the_exported_encoder_loads_in_two_lines_and_names_its_data(runs: Path) -> None:
    encoder, info = load_encoder(runs / "stage3/encoder.safetensors")
    assert encoder(torch.rand(2, 3, 24, 24, 24)).shape == (2, 1 + 1 + 8, 24)
    assert (info.step, info.spacing_mm, info.preprocess_digest) == (STEPS, (4.0, 4.0, 4.0), NO_CONFIGURATION)
    assert str(runs) not in (runs / "stage3/encoder.json").read_text()


def test_a_run_with_anisotropic_patches_gives_the_positions_of_features(runs: Path) -> None:
    recorded = json.loads((runs / "gram-0/encoder.json").read_text())
    assert (recorded["model"]["positions"], recorded["data"]["view_size"]) == ("rope", [8, 24, 36])
    for folder in ("reconstructions", "attention"):
        assert len(list((runs / "gram-0" / folder).glob("*.png"))) == 2
    scans = list(fmct_hpc.features(runs / "data", runs / "gram-0"))
    assert [(scan.patches.shape, scan.centres_mm.shape) for scan in scans] == VOLUMES * [((8, 24), (8, 3))]


def test_the_tissue_share_of_omitted_patches_is_equal_at_all_stages(runs: Path) -> None:
    dropped = [[row.get("tissue_dropped") for row in metrics(runs / run)] for run in ANCHORED]
    assert len({tuple(shares) for shares in dropped}) == 1
    evaluated = [share for share in dropped[0] if share is not None]
    assert dropped[0][-1] is not None
    assert all(0 < share < 0.3 for share in evaluated)
    assert json.loads((runs / "gram-0/encoder.json").read_text())["model"]["keep_tokens"] == 0.6
    assert not any("tissue_dropped" in row for row in metrics(runs / "stage0"))


def wait_for(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0


def reached(run: Path, step: int) -> bool:
    return rows(run) >= step


def all_started(process: subprocess.Popen[str]) -> bool:
    return len(ranks_of(process)) == 2


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()]


def test_a_run_stopped_and_killed_at_random_equals_an_uninterrupted_one(
    runs: Path, tmp_path: Path, seed: int
) -> None:
    """First SIGTERM to one rank; then SIGKILL to a random one at random times, with a save at every step."""
    config = configured(runs / "data", engine=VARIANTS["stage2"], run={"checkpoint_every": 1})
    recipe = write_recipe(config, tmp_path / "recipe.yaml")
    generator = random.Random(seed)
    number, killed = 0, 0
    while killed < KILLS:
        number += 1
        run = tmp_path / f"run-{number}"
        process = start_training(recipe, run)
        wait_for(partial(reached, run, 2), process)
        os.kill(ranks_of(process)[1], signal.SIGTERM)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 75, output
        assert last_checkpoint(run).step == rows(run) < STEPS
        while (begun := rows(run)) < STEPS - 1 and killed < KILLS:
            process = start_training(recipe, run)
            wait_for(partial(all_started, process), process)
            target = generator.randrange(begun, STEPS)
            wait_for(partial(reached, run, target), process)
            time.sleep(generator.uniform(0, 0.1 if target > begun else 5.0))
            if victims := ranks_of(process):
                os.kill(generator.choice(victims), signal.SIGKILL)
            output = process.communicate(timeout=300)[0]
            assert process.returncode != 75, output
            killed += process.returncode != 0  # else it finished before the kill
            print(f"run {number}: {killed} kills, {rows(run)} steps")
        process = start_training(recipe, run)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        assert_same_run(runs / "stage2", run)


def copy_with_checkpoints(runs: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    run = shutil.copytree(runs / "stage3", tmp_path / "run")
    return run, sorted((run / "checkpoints").iterdir())


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
        return
    if how == "truncated":
        del data[-1:]
    else:
        data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_every_damaged_file_is_named_and_the_previous_checkpoint_is_used(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    run, checkpoints = copy_with_checkpoints(runs, tmp_path)
    files = [path for path in checkpoints[-1].rglob("*") if path.is_file()]
    assert len([f for f in files if "rank" in f.name]) == 2, "one file per rank"
    for file in files:
        kept = file.read_bytes()
        damage(file, how)
        caplog.clear()
        latest = newest(run)
        assert latest is not None
        assert latest[0] == checkpoints[-2], file
        assert str(file) in caplog.text
        file.write_bytes(kept)
    latest = newest(run)
    assert latest is not None
    assert latest[0] == checkpoints[-1]


def test_steps_after_a_damaged_checkpoint_are_repeated_and_counted(runs: Path, tmp_path: Path) -> None:
    run, checkpoints = copy_with_checkpoints(runs, tmp_path)
    damage(next(checkpoints[-1].glob("rank-00001*")), "flipped")
    recipe = write_recipe(configured(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    process = start_training(recipe, run, 2, "--until", str(STEPS - 1))
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert f"renamed to damaged-{checkpoints[-1].name}" in output
    assert newest_step(run) == STEPS - 1 == attempts(run)[-1].saved_step
    assert compare(run, runs / "stage3") == STEPS - 1, "ranks started anew equal forked ones"


def test_a_resume_without_a_complete_checkpoint_is_refused_in_one_line(runs: Path, tmp_path: Path) -> None:
    run, checkpoints = copy_with_checkpoints(runs, tmp_path)
    for checkpoint in checkpoints:
        next(checkpoint.glob("rank-00001*")).unlink()
    before = sorted(run.rglob("*"))
    with pytest.raises(FmctError, match="rank-00001"):
        newest(run)
    recipe = write_recipe(configured(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    ended = run_training(recipe, run)
    assert ended.returncode == 2
    [line] = ended.stdout.splitlines()
    assert line.startswith("fmct: no intact checkpoint is left")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optim.base_lr=0.1"], "optim.base_lr=0.02, not 0.1"),
        (["run.batch=3"], "run.batch=3 is not a multiple"),
        (["data.path=nowhere"], "nowhere"),
        (["model.depth=2"], "model.depth=1, not 2"),
        (["engine.zero_stage=1", "engine.offload_parameters=true"], "needs engine.zero_stage=3"),
        (["engine.deepspeed.gradient_clipping=1"], "set optim.clip"),
    ],
)
def test_a_run_that_cannot_resume_is_refused_before_any_rank_starts(
    runs: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    recipe = write_recipe(configured(runs / "data", engine=VARIANTS["stage3"]), tmp_path / "recipe.yaml")
    ended = run_training(recipe, runs / "stage3", 2, *arguments)
    assert ended.returncode == 2
    [line] = ended.stdout.splitlines()
    assert expected in line


def test_volumes_of_another_spacing_are_refused(runs: Path, tmp_path: Path) -> None:
    config = configured(write_dataset(tmp_path / "data", spacing=3.0), engine=VARIANTS["stage3"])
    with pytest.raises(FmctError, match=r"volumes of spacing \(3.0, 3.0, 3.0\) mm, not \(4.0, 4.0, 4.0\)"):
        preflight(config, runs / "stage3", 2)


def test_two_trainings_in_one_folder_are_refused(runs: Path, tmp_path: Path) -> None:
    recipe = write_recipe(configured(runs / "data"), tmp_path / "recipe.yaml")
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = run_training(recipe, tmp_path)
    assert ended.returncode == 2
    assert ended.stdout.count("another process is writing there") == 1
