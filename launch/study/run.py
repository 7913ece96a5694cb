"""A study from end to end; every step is kept, so that the same command goes on where it was stopped."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.config import LogisticConfig
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.finetune import Rows, finetune
from fmct_hpc.probe.logistic import logistic
from fmct_hpc.train.export import EncoderInfo, load_encoder
from fmct_hpc.train.start import untrained_encoder
from launch.study.cells import (
    Cell,
    Heads,
    frozen_scores,
    means,
    pooled,
    save,
    score_rows,
    thumbnails,
)
from launch.study.cohort import Split, write_cohort
from launch.study.config import StudyConfig
from launch.study.plan import plan
from launch.study.pretrain import pretrain
from launch.study.report import write_report
from shards import Dataset
from shards.atomic import write_text
from shards.errors import FmctError

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def study(config: StudyConfig, out: Path, progress: Progress, report_only: bool = False) -> str:
    """Do what is missing in the folder `out`, then write results.parquet, report.md and the figures.

    With `report_only` they are written of what is there already. Returns what is said of the goal. Raises
    FmctError where `out` holds another study, or a pretraining fails.
    """
    _require_same(config, out)
    cohort = out / "cohort"
    write_cohort(config.cohort, config.sizes, cohort, progress)
    heads = Heads.read(cohort)
    for cells, make in [] if report_only else _work(config, out, heads):
        missing = [cell for cell in cells if not (out / "cells" / cell.file_name).exists()]
        if missing:
            scorer = make()
            for cell in missing:
                began = time.process_time()
                scores = scorer(cell)
                save(out / "cells" / cell.file_name, scores, time.process_time() - began)
                log.info("%s: %.0f s", cell.file_name, time.process_time() - began)
    return write_report(config, out, heads)


Scorer = Callable[[Cell], NDArray[np.float32]]


def _work(config: StudyConfig, out: Path, heads: Heads) -> list[tuple[list[Cell], Callable[[], Scorer]]]:
    """The cells of each encoder, and what opens it (which pretrains it first)."""
    # The greatest size of all seeds comes first: it is what most of the results are of.
    groups = [(cells, seed) for seed in config.seeds for cells in plan(config, seed)]
    groups.sort(key=lambda group: group[0][0].size not in (0, max(config.sizes)))
    return [(cells, partial(_open, config, out, heads, cells[0], seed)) for cells, seed in groups]


def _open(config: StudyConfig, out: Path, heads: Heads, cell: Cell, seed: int) -> Scorer:
    """A function that scores the cells of one encoder."""
    recipe = config.recipe(next(iter(config.objectives)), max(config.sizes), out / "cohort" / "labelled", 0)
    dataset = Dataset.open(out / "cohort" / "labelled")
    info = EncoderInfo(
        step=0,
        model=recipe.model,
        data=recipe.data,
        spacing_mm=dataset.info.spacing_mm,
        preprocess_digest=dataset.info.config_digest,
        code_version="",
    )
    views = _views(dataset, info, heads)
    rows = {
        fraction: Rows(heads.labelled(fraction, seed), heads.rows[Split.VALIDATION], score_rows(heads))
        for fraction in config.fractions
    }

    def frozen(features: NDArray[np.float32], cell: Cell) -> NDArray[np.float32]:
        settings = LogisticConfig(strengths=config.frozen.strengths)
        fit = partial(logistic, features, config=settings)
        return frozen_scores(fit, heads, rows[cell.fraction].train, seed)

    if cell.arm in ("mean", "thumbnail"):
        return partial(frozen, means(views) if cell.arm == "mean" else thumbnails(views))
    encoder: VisionTransformer
    if cell.size:
        number = config.seeds.index(seed) % config.pretrainings
        name = f"{cell.arm}-{cell.size}-{number}"
        recipe = config.recipe(cell.arm, cell.size, out / "cohort" / f"pretrain-{cell.size}", number)
        encoder, _ = load_encoder(pretrain(recipe, out / "runs" / name))
    else:
        name, encoder = f"untrained-{seed}", untrained_encoder(info, seed)
    store = extract_store(
        OurEncoder(encoder, info), name, dataset, out / "features" / name, tokens=True, batch=32
    )
    assert store is not None  # it is no task of several
    features = pooled(store, config.frozen)[heads.order]

    def score(cell: Cell) -> NDArray[np.float32]:
        if cell.method == "frozen":
            return frozen(features, cell)
        settings = config.finetune if cell.size else config.scratch
        settings = settings.model_copy(update={"seed": seed})
        return finetune(encoder, views, heads.labels, rows[cell.fraction], settings).scores

    return score


def _views(dataset: Dataset, info: EncoderInfo, heads: Heads) -> torch.Tensor:
    """What encoders see of the labelled heads, float16 (N, C, S, S, S)."""
    views = [info.view(dataset.read(int(row)), dataset.info.spacing_mm).half() for row in heads.order]
    return torch.cat(views)


def _require_same(config: StudyConfig, out: Path) -> None:
    """Write the configuration, or refuse a folder of another's."""
    recorded = out / "config.json"
    text = config.model_dump_json(indent=1)
    if not recorded.exists():
        write_text(recorded, text)
    elif recorded.read_text() != text:
        raise FmctError(f"{out}: holds a study of another configuration; give another folder")
