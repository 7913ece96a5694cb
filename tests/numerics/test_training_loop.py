"""Two DeepSpeed ranks against a plain torch loop in one process, written out here."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from forked_ranks import run_forked
from small_training import BATCH, STEPS, small_config, write_dataset, write_recipe

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.loader import Loader
from fmct_hpc.objective.draws import draw
from fmct_hpc.train.schedules import settings
from fmct_hpc.train.start import initial
from launch import cli


def cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def plain_losses(config: TrainConfig) -> list[float]:
    student = initial(config).student
    teacher = copy.deepcopy(student)
    centre = torch.zeros(config.model.prototypes)
    decayed = [p for n, p in student.named_parameters() if n.endswith("weight") and "norm" not in n]
    prototypes = student.get_parameter("head.prototypes.weight")
    decayed = [p for p in decayed if p is not prototypes]
    others = [p for p in student.parameters() if not any(p is d for d in decayed)]
    optimizer = torch.optim.AdamW(
        [dict[str, Any](params=decayed), dict[str, Any](params=others, weight_decay=0)], betas=(0.9, 0.95)
    )
    loader = Loader(config.data, config.run.seed, BATCH, BATCH)
    losses = []
    for step, batch in zip(range(STEPS), loader, strict=False):
        progress = step / STEPS
        peak = config.optim.base_lr * BATCH / 256
        warm = STEPS * 0.1
        decay = cosine(peak, 1e-6, (step - warm) / (STEPS - warm))
        rate = peak * min(1, (step + 1) / warm) if step < warm else decay
        optimizer.param_groups[0].update(lr=rate, weight_decay=cosine(0.04, 0.4, progress))
        optimizer.param_groups[1].update(lr=rate)
        with torch.no_grad():
            logits = torch.stack(
                [teacher.get_submodule("head")(teacher.encoder(view)[:, 0]) for view in batch.views.whole]
            )
            probabilities = torch.softmax((logits - centre) / 0.04, -1)
        draws = draw(config, step, batch.indices)
        now = settings(config, step)._replace(freeze_prototypes=step < 0.01 * STEPS)
        loss = student(batch.views, {"dino": probabilities}, draws, now).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        momentum = cosine(0.994, 1, progress)
        with torch.no_grad():
            centre = 0.9 * centre + 0.1 * logits.flatten(0, 1).mean(0)
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.mul_(momentum).add_(theirs, alpha=1 - momentum)
        losses.append(loss.item())
    loader.close()
    return losses


def test_two_ranks_under_zero_2_have_the_losses_of_a_plain_loop(tmp_path: Path) -> None:
    plain: dict[str, dict[str, object]] = {
        "model": {"drop_path": 0, "positions": "sincos"},
        "objective": {"ibot_weight": 0},
    }
    config = small_config(write_dataset(tmp_path / "data"), engine={"zero_stage": 2}, **plain)
    recipe = write_recipe(config, tmp_path / "recipe.yaml")
    assert run_forked(cli.__file__, (2, ["train", "--config", recipe, "--run", tmp_path / "run"])) == 0
    expected = plain_losses(config)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line)["loss"] for line in lines]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected), rtol=2e-4, atol=2e-4)
    assert abs(expected[-1] - expected[0]) > 0.05, "a loss that stays put shows nothing"
