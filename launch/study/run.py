"""Running a study from end to end; finished steps are kept, so the same command resumes a stopped study."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from fmct_hpc.model.backbone import Backbone
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.finetune import Rows, finetune
from fmct_hpc.probe.logistic import logistic
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.train.export import EncoderInfo, load_encoder
from fmct_hpc.train.start import untrained_encoder
from launch.study.cells import Cell, Heads, frozen_scores, means, pooled, save, score_rows, thumbnails
from launch.study.cohort import LABELS, Split, write_cohort
from launch.study.config import StudyConfig
from launch.study.plan import Group, plan
from launch.study.pretrain import pretrain
from launch.study.report import write_report
from launch.study.tuning import tuning_groups, tuning_study, write_tuning
from shards import Dataset
from shards.atomic import write_text
from shards.errors import FmctError
from shards.ledger import Ledger
from shards.lock import writing
from shards.newer_version import read_error
from shards.parallel import process_pool

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def study(
    config: StudyConfig, out: Path, progress: Progress, workers: int = 1, report_only: bool = False
) -> str:
    """Compute missing results in the folder `out`, then write results.parquet, report.md and the figures.

    With `report_only` they are written from the finished cells. `workers` processes of one thread each make
    heads, and then encoders with their cells; the results do not depend on their number. Returns the text of
    the main comparison. Raises FmctError if `out` contains another study, or none to report on, or a
    pretraining fails.
    """
    if report_only and not (out / "cohort" / LABELS).exists():
        raise FmctError(f"{out}: contains no study to report on; run it without --report-only")
    with writing(out, "fmct study"):
        return _study(config, out, progress, workers, report_only)


def _study(config: StudyConfig, out: Path, progress: Progress, workers: int, report_only: bool) -> str:
    cohort = out / "cohort"
    _require_same(config, out)
    if not report_only:
        _run_groups(config, out, plan(config), progress, workers)
    return write_report(config, out, Heads.read(cohort))


def tune(config: StudyConfig, out: Path, progress: Progress, workers: int = 1) -> str:
    """Fine-tune every arm's first encoder, and train from scratch, at each setting of `config.tuning`.

    Uses only the tuning cohort. Writes `out`/tuning.parquet and returns a table of mean AUC. Finished cells
    are kept. Raises FmctError if `out` contains another study, or a pretraining fails.
    """
    config = tuning_study(config)
    with writing(out, "fmct study"):
        _require_same(config, out)
        _run_groups(config, out, tuning_groups(config), progress, workers)
        return write_tuning(config, out, Heads.read(out / "cohort"))


def _run_groups(
    config: StudyConfig, out: Path, groups: list[Group], progress: Progress, workers: int
) -> None:
    with process_pool(workers, __name__) as pool:
        write_cohort(config.cohort, config.sizes, out / "cohort", pool, progress)
        missing = [group for group in groups if _cells(group, out).missing()]
        running = {pool.submit(_run_group, config, out, group): group for group in missing}
        for done, future in enumerate(as_completed(running), 1):
            seconds = future.result()
            log.info("%s: %.0f s (%d of %d)", running[future].name, seconds, done, len(missing))


def _cells(group: Group, out: Path) -> Ledger[Cell, bool]:
    """The ledger of a group's cells; a cell's score file is its marker."""
    return Ledger(group.cells, lambda cell: (out / "cells" / cell.file_name).exists())


def _run_group(config: StudyConfig, out: Path, group: Group) -> float:
    """Compute the missing cells of a group; returns the seconds taken."""
    began = time.monotonic()
    torch.set_num_threads(1)  # one process per core is fastest for networks this small
    heads = Heads.read(out / "cohort")
    scorer = _open(config, out, heads, group)

    def make(cell: Cell) -> None:
        start = time.process_time()
        scores = scorer(cell)
        save(out / "cells" / cell.file_name, scores, time.process_time() - start)

    _cells(group, out).make(make)
    return time.monotonic() - began


Scorer = Callable[[Cell], NDArray[np.float32]]


def _open(config: StudyConfig, out: Path, heads: Heads, group: Group) -> Scorer:
    """Pretrain or load the encoder of a group; returns a function that scores its cells."""
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

    def rows(cell: Cell) -> Rows:
        train = heads.labelled(cell.fraction, cell.seed)
        return Rows(train, heads.rows[Split.VALIDATION], score_rows(heads))

    def frozen(features: NDArray[np.float32], cell: Cell) -> NDArray[np.float32]:
        settings = LogisticConfig(strengths=config.frozen.strengths)
        fit = partial(logistic, features, config=settings)
        return frozen_scores(fit, heads, rows(cell).train, cell.seed)

    views = _views(dataset, info, heads)
    if group.arm in ("mean", "thumbnail"):
        return partial(frozen, means(views) if group.arm == "mean" else thumbnails(views))
    encoder: Backbone
    if group.size:
        data = out / "cohort" / f"pretrain-{group.size}"
        recipe = config.recipe(group.arm, group.size, data, group.number)
        encoder, _ = load_encoder(pretrain(recipe, out / "runs" / group.name))
    else:
        encoder = untrained_encoder(info, group.number)
    request = Extraction(OurEncoder(encoder, info), group.name, dataset, tokens=True, batch=32)
    store = extract_store(request, out / "features" / group.name)
    features = pooled(store, config.frozen)[heads.order]

    def score(cell: Cell) -> NDArray[np.float32]:
        if cell.method == "frozen":
            return frozen(features, cell)
        settings = config.finetuning(group.arm if cell.size else None)
        setting = cell.setting._asdict() if cell.setting else {}
        settings = settings.model_copy(update={"seed": cell.seed, **setting})
        return finetune(encoder, views, heads.labels, rows(cell), settings).scores

    return score


def _views(dataset: Dataset, info: EncoderInfo, heads: Heads) -> torch.Tensor:
    """The views of the labelled heads, float16 (N, C, D, H, W)."""
    views = [info.view(dataset.read(int(row)), dataset.info.spacing_mm).half() for row in heads.order]
    return torch.cat(views)


def _require_same(config: StudyConfig, out: Path) -> None:
    """Write the configuration; raises FmctError if the folder has another one."""
    recorded = out / "config.json"
    if not recorded.exists():
        write_text(recorded, config.model_dump_json(indent=1))
        return
    try:
        same = StudyConfig.from_record_json(recorded.read_bytes()) == config
    except ValidationError as error:
        raise read_error(recorded, error, "damaged; use another folder") from None
    if not same:
        raise FmctError(f"{out}: contains a study with another configuration; use another folder")
