"""`fmct benchmark`: compare encoders on several datasets by sweeps, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import (
    AllowCode,
    Collect,
    Extract,
    Overrides,
    Plan,
    ShareOption,
    Status,
    Task,
    at_most_one,
)
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError
from shards.share import Share

if TYPE_CHECKING:
    from fmct_hpc.benchmark.run import Benchmark


def benchmark(
    config: Annotated[
        Path, typer.Argument(help="YAML configuration; see launch/recipes/benchmark-example.yaml.")
    ],
    out: Annotated[
        Path, typer.Option(help="Output folder for the page, the tables, and a sweep per dataset.")
    ],
    extract: Extract = None,
    plan: Plan = False,
    share: ShareOption = None,
    task: Task = None,
    collect: Collect = False,
    status: Status = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Compare encoders on several labelled datasets, with intervals, paired tests and leakage checks.

    Each dataset is a separate sweep in OUT/NAME, whose finished parts are kept. OUT/benchmark.html is the
    page, benchmark.md the same in Markdown, results.parquet and comparisons.parquet contain the rows.
    """
    at_most_one(extract=extract, plan=plan, share=share, task=task, collect=collect, status=status)
    from fmct_hpc.benchmark.config import BenchmarkConfig
    from fmct_hpc.benchmark.run import Benchmark
    from launch.own_code import load_own

    whole = Benchmark(load_own(BenchmarkConfig, config, overrides or [], allow_code), out)
    if status:
        echo(whole.status())
    elif plan:
        echo(f"{out}: {whole.plan()} tasks, {whole.extractions} of extraction")
    elif extract is not None:
        with progress("features") as update:
            whole.extract(None if extract == -1 else extract, update)
    elif share is not None:
        echo(f"share {share}: {whole.run_share(*Share.parse(share))} units computed")
    elif task is not None:
        with progress(f"task {task}") as update:
            echo(f"task {task}: {whole.run_task(task, update)} units computed")
    else:
        _write(whole, collect)


def _write(whole: "Benchmark", collect: bool) -> None:
    from launch.report.benchmark import write_page

    if collect:
        summary = whole.collect()
    else:
        with progress("benchmark") as update:
            summary = whole.run(update)
    page = write_page(whole.out)
    echo(str(summary))
    echo(f"{page}: opens in any browser; {page.with_suffix('.md')}: the same in Markdown")
    datasets = summary.datasets.values()
    if all(one.done == one.units and one.refused == one.results for one in datasets):
        raise FmctError(f"{whole.out}: no result has a figure; reasons are on the page")
