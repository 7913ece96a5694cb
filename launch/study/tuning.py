"""Tuning the learning rate and length of fine-tuning, with the same grid for every arm, on separate heads.

The heads are a cohort with another seed, and are not used in the report. Every pretrained arm
and training from scratch get the same grid and the same draws of labels. The recipe records the chosen
values, in `finetune` of each arm, and in `scratch` for training from scratch.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch import markdown
from launch.study.cells import Cell, Heads, Setting
from launch.study.cohort import Split
from launch.study.config import StudyConfig
from launch.study.plan import Group
from launch.study.results import mean_area
from shards.atomic import atomic_path
from shards.errors import FmctError

TABLE = "tuning.parquet"


def tuning_study(config: StudyConfig) -> StudyConfig:
    """The same study on the tuning cohort, at the largest size and `compared_fraction` of the labels.

    Raises FmctError if that cohort is the study's own.
    """
    if config.tuning.seed == config.cohort.seed:
        raise FmctError(
            "tuning.seed: must differ from cohort.seed, since settings are tuned on separate heads"
        )
    return config.model_copy(
        update={
            "cohort": config.cohort.model_copy(update={"seed": config.tuning.seed}),
            "sizes": (max(config.sizes),),
            "fractions": (config.compared_fraction,),
            "seeds": tuple(range(config.tuning.draws)),
        }
    )


def settings(config: StudyConfig) -> list[Setting]:
    """The grid of settings."""
    return [Setting(*point) for point in product(config.tuning.lr, config.tuning.steps)]


def tuning_groups(config: StudyConfig) -> list[Group]:
    """The groups of a `tuning_study`, one per arm and one from scratch: a cell per setting and draw."""
    size, fraction = config.sizes[0], config.compared_fraction
    groups = []
    for name, arm, heads in (*((one, one, size) for one in config.objectives), ("untrained", "scratch", 0)):
        cells = [
            Cell(arm, "finetune", heads, fraction, seed, setting)
            for setting in settings(config)
            for seed in config.seeds
        ]
        groups.append(Group(f"{name}-{heads}-0", name, heads, 0, cells))
    return groups


def write_tuning(config: StudyConfig, out: Path, heads: Heads) -> str:
    """Write `out`/tuning.parquet, one row per cell.

    Returns a Markdown table of AUC, averaged over findings and draws, with the best of each arm in bold.
    """
    grid = settings(config)
    truth = heads.labels[heads.rows[Split.TEST]] == 1
    rows: list[dict[str, object]] = []
    lines = []
    for group in tuning_groups(config):
        areas: dict[Setting, list[float]] = {}
        for cell in group.cells:
            assert cell.setting is not None
            scores = np.load(out / "cells" / cell.file_name)["scores"][: len(truth)]
            area = mean_area(scores, truth)
            areas.setdefault(cell.setting, []).append(area)
            rows.append({"arm": cell.arm, **cell.setting._asdict(), "seed": cell.seed, "auc": area})
        means = [float(np.mean(areas[setting])) for setting in grid]
        shown = [f"**{mean:.3f}**" if mean == max(means) else f"{mean:.3f}" for mean in means]
        lines.append(f"| {markdown.escape(group.cells[0].arm)} | {' | '.join(shown)} |")
    with atomic_path(out / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    head = markdown.row(["", *(f"{setting.lr:g}, {setting.steps} steps" for setting in grid)])
    return "\n".join([head, "| --- " * (len(grid) + 1) + "|", *lines])
