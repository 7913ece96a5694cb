"""engine.deepspeed checked by DeepSpeed's own reader."""

from pathlib import Path

import pytest
from small_training import small_config, write_dataset, write_recipe
from typer.testing import CliRunner

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.deepspeed_keys import require_deepspeed_keys
from launch.cli import app
from launch.config import load
from shards.errors import FmctError


def given(text: str) -> TrainConfig:
    return load(TrainConfig, None, ["data.path=d", f"engine.deepspeed={text}"])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{zero_optimization: {reduce_bucket_size: 5e8, overlap_comm: true}}",
        "{zero_optimization: {stage3_prefetch_bucket_size: 1e7, sub_group_size: 1e9}, steps_per_print: 100}",
        "{flops_profiler: {enabled: true, profile_step: 5, output_file: flops.txt}}",
        "{comms_logger: {enabled: true}, wall_clock_breakdown: true, memory_breakdown: false}",
        "{activation_checkpointing: {partition_activations: true}, communication_data_type: fp32}",
        "{gradient_predivide_factor: 2, compile: {}, tensorboard: {enabled: false}}",
        "{aio: {queue_depth: 16}, data_types: {grad_accum_dtype: fp32}}",
    ],
)
def test_known_deepspeed_keys_pass(text: str) -> None:
    require_deepspeed_keys(given(text))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{zero_optimisation: {reduce_bucket_size: 5}}", ["zero_optimisation", "mean zero_optimization?"]),
        ("{steps_per_prnt: 5}", ["steps_per_prnt", "mean steps_per_print?"]),
        (
            "{zero_optimization: {reduce_buket_size: 5}}",
            ["zero_optimization: ", "reduce_buket_size", "mean reduce_bucket_size?"],
        ),
        (
            '{zero_optimization: {reduce_bucket_size: "5e8"}}',
            ["zero_optimization.reduce_bucket_size", "'5e8'"],
        ),
        ("{zero_optimization: {reduce_bucket_size: 0.5}}", ["zero_optimization.reduce_bucket_size", "0.5"]),
        ("{flops_profiler: {enabeld: true}}", ["flops_profiler", "enabeld", "mean enabled?"]),
        ("{flops_profiler: {profile_step: often}}", ["flops_profiler.profile_step", "like 1", "'often'"]),
        ("{comms_logger: {enabled: maybe}}", ["comms_logger.enabled", "'maybe'"]),
        ("{activation_checkpointing: {profil: true}}", ["activation_checkpointing", "mean profile?"]),
        ("{wall_clock_breakdown: 'no'}", ["wall_clock_breakdown", "like False", "'no'"]),
        ("{tensorboard: {enabeld: true}}", ["deepspeed.tensorboard: ", "mean enabled?"]),
        ("{zero_optimization: {zenflow: {topk_rati: 1}}}", ["zero_optimization.zenflow: ", "topk_rati"]),
        ("{wall_clock_breakdwn: true, memory_breakdown: 3}", ["mean wall_clock_breakdown?"]),
        ("{zero_optimization: 5}", ["zero_optimization must be a section"]),
    ],
)
def test_unknown_deepspeed_keys_are_named(text: str, parts: list[str]) -> None:
    with pytest.raises(FmctError) as caught:
        require_deepspeed_keys(given(text))
    assert "\n" not in str(caught.value)
    for part in ["engine.deepspeed", *parts]:
        assert part in str(caught.value)


def test_the_dry_run_checks_deepspeed_keys(tmp_path: Path) -> None:
    config = small_config(write_dataset(tmp_path / "data", 4))
    recipe = write_recipe(config, tmp_path / "recipe.yaml")
    arguments = ["train", "--config", str(recipe), "--run", str(tmp_path / "run"), "--dry-run"]
    over = "engine.deepspeed={zero_optimization: {%s: 5e8}}"
    assert CliRunner().invoke(app, [*arguments, over % "reduce_bucket_size"]).exit_code == 0
    refused = CliRunner().invoke(app, [*arguments, over % "reduce_bucket"])
    assert "did you mean reduce_bucket_size?" in str(refused.exception)
