import json
from pathlib import Path

import pytest
from small_training import small_config, write_dataset, write_recipe
from typer.testing import CliRunner

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.size import parameter_counts, tokens_per_volume, training_flops
from fmct_hpc.train.dry_run import held_bytes, outlook
from fmct_hpc.train.length import with_steps
from fmct_hpc.train.run import preflight
from fmct_hpc.train.throughput import Throughput
from launch.cli import app
from shards import Dataset, FmctError


def test_memory_equals_the_zero_formula_by_hand() -> None:
    student, teacher = 100, 80
    assert [held_bytes(stage, 4, student, teacher) for stage in range(4)] == [1520, 1020, 1020, 480]
    assert held_bytes(1, 1, student, teacher) == held_bytes(3, 1, student, teacher)


def test_a_dry_run_on_gpus_reports_the_cost_of_its_interval(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    given = {"path": str(tmp_path / "data")}
    run = {"batch": 1024, "failure_gpu_hours": 10_000, "checkpoint_every": 1000}
    config = TrainConfig.model_validate({"data": given, "run": run})
    report = outlook(config, dataset, 1024, 0)
    assert "one in 0.4 days" in report
    assert "run.checkpoint_every=1000 loses" in report


def test_tokens_of_the_reference_counted_by_hand() -> None:
    config = TrainConfig.model_validate({"data": {"path": "unused"}})
    assert tokens_per_volume(config) == 4 * (1 + 4 + 512) + (1 + 4 + 128)
    mae = config.model_copy(update={"objective": config.objective.model_copy(update={"dino_weight": 0.0})})
    assert tokens_per_volume(mae) == 133
    small = TrainConfig.model_validate({"data": {"path": "unused", "local_view_size": 48}})
    assert tokens_per_volume(small) == 2 * (5 + 512) + 2 * (5 + 64) + (5 + 128)
    fewer = small.model_copy(update={"model": small.model.model_copy(update={"keep_tokens": 0.6})})
    assert tokens_per_volume(fewer) == 2 * (5 + 308) + 2 * (5 + 39) + (5 + 77)


def test_a_dry_run_shows_the_savings_of_smaller_local_views(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    for data, objective, expected in (
        ({"local_view_size": 48}, {}, True),
        ({"local_view_size": 96}, {}, False),
        ({}, {}, False),
        ({"local_view_size": 48}, {"dino_weight": 0}, False),  # which is not checked
    ):
        given = {"data": {"path": str(tmp_path / "data"), **data}, "objective": objective}
        report = outlook(TrainConfig.model_validate(given), dataset, 1, 0)
        assert ("data.local_view_size=48 saves 33%" in report) is expected
        assert f"2 local ones of {data.get('local_view_size', 96)}³" in report


def test_a_dry_run_shows_the_savings_of_dropped_tokens(tmp_path: Path) -> None:
    """ViT-B with MAE alone, by hand: 12 blocks on a quarter of 256 patches, 8 decoder blocks on all."""
    dataset = Dataset.open(write_dataset(tmp_path / "data"))

    def operations(patches: int) -> int:
        seen = patches // 4
        blocks = [
            depth * (24 * (5 + tokens) * width**2 + 4 * (5 + tokens) ** 2 * width)
            for depth, width, tokens in ((12, 768, seen), (8, 512, patches))
        ]
        decoded = 2 * (5 + seen) * 768 * 512 + 2 * patches * 5184 * 512
        return 3 * (sum(blocks) + decoded) + 2 * 2 * seen * 5184 * 768

    given = {"data": {"path": str(tmp_path / "data")}, "objective": {"dino_weight": 0}}
    config = TrainConfig.model_validate({**given, "model": {"keep_tokens": 0.5}})
    assert training_flops(config) == operations(256)
    spared = f"model.keep_tokens=0.5 saves {1 - operations(256) / operations(512):.0%}"
    assert spared in outlook(config, dataset, 1, 0)
    assert "keep_tokens" not in outlook(TrainConfig.model_validate(given), dataset, 1, 0)


def test_offload_and_the_heads_are_in_the_memory_that_is_reported(tmp_path: Path) -> None:
    """ViT-B with 65,536 prototypes, 8 volumes of one rank: by hand, and as measured at 16,384."""
    dataset, given = Dataset.open(write_dataset(tmp_path / "data")), {"path": str(tmp_path / "data")}

    def report(**sections: object) -> str:
        values = {"data": given, "run": {"batch": 8}} | sections
        return outlook(TrainConfig.model_validate(values), dataset, 1, 0)

    stored = {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}
    student = parameter_counts(TrainConfig.model_validate({"data": given}))
    taught = sum(student[part] for part in ("encoder", "head"))
    host = 4 * (4 * sum(student.values()) + taught)
    assert f"{host / 1e9:.2f} GB of these in host memory" in report(engine=stored)
    assert "host memory" not in report()
    # Targets of two views twice, outputs of four views three times.
    assert f"about {4 * 65536 * 8 * (2 * 2 + 3 * 4) / 1e9:.2f} GB head outputs" in report()
    rows = 2 + 2 * 0.5 * 0.3 * 512
    ibot = {"ibot_weight": 1, "centring": "sinkhorn"}
    assert f"about {4 * 65536 * 8 * (4 * rows + 3 * (rows + 2)) / 1e9:.2f} GB head outputs" in report(
        objective=ibot
    )


def test_views_that_mae_alone_leaves_unused_are_reported(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "data"))
    given, alone = {"path": str(tmp_path / "data")}, {"global_views": 1, "local_views": 0}
    for objective, data, expected in (
        ({}, given, False),
        ({"dino_weight": 0}, given, True),
        ({"dino_weight": 0}, given | alone, False),
    ):
        config = TrainConfig.model_validate({"data": data, "objective": objective})
        assert ("data.global_views=1" in outlook(config, dataset, 1, 0)) is expected


def test_epochs_round_up_to_steps_and_conflicting_values_are_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")  # of 6 volumes
    command = ["train", "--run", str(tmp_path / "run"), "--dry-run", f"data.path={data}", "engine.device=cpu"]

    def report(*overrides: str) -> str:
        result = CliRunner().invoke(app, [*command, "run.batch=4", *overrides])
        return result.stdout if result.exception is None else str(result.exception)

    for epochs, steps in ((10, 15), (1, 2), (0.1, 1)):
        assert f"{steps} steps are" in report(f"run.epochs={epochs}")
    assert "15 steps are" in report("run.epochs=10", "run.steps=null")
    assert "run.steps=16 and run.epochs=10 are both given" in report("run.epochs=10", "run.steps=16")
    assert "WARNING" not in report("run.epochs=2000")
    assert "WARNING: 2,001 epochs of 6 volumes" in report("run.epochs=2001")
    assert "WARNING" in report(), "the default of 100,000 steps"


def test_a_run_of_epochs_records_both_and_is_reproduced_from_the_record(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    given = {"data": {"path": str(data)}, "run": {"epochs": 10, "batch": 4}}
    config = TrainConfig.model_validate(given)
    kept = json.loads(config.model_dump_json())
    assert (kept["run"]["steps"], kept["run"]["epochs"]) == (None, 10)
    resolved = with_steps(TrainConfig.model_validate(kept))
    record = json.loads(resolved.model_dump_json())
    assert (record["run"]["steps"], record["run"]["epochs"]) == (15, 10)
    assert with_steps(TrainConfig.model_validate(record)) == resolved
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(record))
    preflight(config, tmp_path / "run", 1)
    by_steps = TrainConfig.model_validate({**given, "run": {"steps": 15, "batch": 4}})
    preflight(by_steps, tmp_path / "run", 1)
    with pytest.raises(FmctError, match=r"run\.steps=15, not 30"):
        preflight(
            TrainConfig.model_validate({**given, "run": {"epochs": 20, "batch": 4}}), tmp_path / "run", 1
        )


def test_a_slow_step_has_lower_throughput_and_a_cpu_no_utilisation() -> None:
    import torch

    config = TrainConfig.model_validate({"data": {"path": "unused"}})
    figures = Throughput(config, 2, torch.device("cpu")).figures(4.0, 1.0)
    assert figures.pop("memory_gb") > 0.1
    assert figures == {"volumes_per_second": 64.0, "tokens_per_second": 64.0 * 2201, "data_wait": 0.25}


def test_a_dry_run_reports_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    recipe = write_recipe(small_config(data, run={"keep_last": 2}), tmp_path / "recipe.yaml")
    command = ["train", "--config", str(recipe), "--run", str(tmp_path / "run"), "--dry-run", "--ranks", "2"]
    result = CliRunner().invoke(app, [*command, "engine.micro_batch=1"], catch_exceptions=False)
    assert result.exit_code == 0
    for text in (
        "6 volumes in 1 zarr shards",
        "20 steps are 13.3 epochs",
        "4 volumes a step = 2 ranks x 2 micro-batches x 1",
        "at ZeRO stage 2",
    ):
        assert text in result.stdout
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["schedules.png"]
    assert (tmp_path / "run/schedules.png").read_bytes().startswith(b"\x89PNG")
