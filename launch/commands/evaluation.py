"""The commands that judge a model: probes, sweeps, retrieval, subgroups, the study, the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import AllowCode, ConfigFile, Overrides, Workers, numbers_of_share
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError

if TYPE_CHECKING:
    from fmct_hpc.probe.sweep.collect import Summary


def probe(
    run: Annotated[Path, typer.Argument(help="A run folder, or one of its checkpoints/step-... folders.")],
    out: Annotated[Path, typer.Option(help="Folder for results and predictions.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Measure the features: logistic regression and kNN on labels, beside the same model untrained."""
    from fmct_hpc.probe.config import ProbeConfig
    from fmct_hpc.probe.run import probe as probe_run
    from launch.config import load

    settings = load(ProbeConfig, config, overrides or [])
    with progress("features") as update:
        result = probe_run(run, settings, out, update)
    echo(result.table())


def retrieval(
    config: Annotated[Path, typer.Argument(help="YAML of a sweep.")],
    out: Annotated[Path, typer.Option(help="Folder for the table.")],
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Measure by how well volumes of a label find one another: mean average precision and recall."""
    from fmct_hpc.retrieval.run import printed
    from fmct_hpc.retrieval.run import retrieval as measure
    from launch.own_code import load_sweep

    sweep = load_sweep(config, overrides or [], allow_code)
    with progress("features") as update:
        table = measure(sweep, out, update)
    echo(printed(table))


def subgroups(
    results: Annotated[Path, typer.Argument(help="Output folder of `fmct probe` or `fmct sweep`.")],
    data: Annotated[Path, typer.Option(help="The shard dataset that was probed.")],
    groups: Annotated[
        Path | None, typer.Option(help="Parquet of study_key and columns of text to group by, if allowed.")
    ] = None,
) -> None:
    """Take a probe's figures apart by scanner, kernel, slices, and a site's own groups."""
    from fmct_hpc.probe.subgroups import TABLE, printed
    from fmct_hpc.probe.subgroups import subgroups as take_apart

    echo(printed(take_apart(results, data, groups)))
    echo(f"{results / TABLE}: every group, with intervals")


def study(
    out: Annotated[Path, typer.Option(help="Folder of the study; an existing one goes on.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML; launch/recipes/study.yaml without it.")
    ] = None,
    workers: Workers = 2,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what is done, and do no more.")
    ] = False,
    tuning: Annotated[
        bool,
        typer.Option("--tune", help="Try fine-tuning's settings on the tuning cohort instead, for each arm."),
    ] = False,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Only what the recipe's `reduced` names: the headline.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Ask on synthetic heads whether pretraining helps: DINO, MAE and both against training from scratch.

    Makes the heads, pretrains at several data sizes, probes and fine-tunes at several shares of labels, and
    writes report.md, results.parquet and figures. Run it again to go on: what is done is kept.
    """
    from launch.config import load
    from launch.study.config import StudyConfig
    from launch.study.reduced import reduced_study
    from launch.study.run import study as run_study
    from launch.study.run import tune

    recipe = config or Path(__file__).parents[1] / "recipes" / "study.yaml"
    settings = load(StudyConfig, recipe, overrides or [])
    if reduced:
        settings = reduced_study(settings)
    with progress("heads") as update:
        if tuning:
            echo(tune(settings, out, update, workers))
        else:
            echo(run_study(settings, out, update, workers, report_only))


def sweep(
    config: Annotated[Path, typer.Argument(help="YAML of the grid; see launch/recipes/sweep-example.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for results, predictions and comparisons.")],
    extract: Annotated[
        int | None, typer.Option(help="Only do this task of extracting features; -1 joins what they made.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only divide the grid into tasks.")] = False,
    share: Annotated[
        str | None, typer.Option(help="Only do a share of the tasks, I/N: those numbered I, I + N, I + 2N...")
    ] = None,
    task: Annotated[int | None, typer.Option(help="Only do this task (one of a Slurm array).")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Only join what is done so far; the sweep may go on meanwhile.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what is done.")] = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Probe encoders in a grid: tasks, methods, layers, label budgets and seeds, with paired tests.

    Safe to repeat: what is done is kept, what is missing or changed is done. Where nothing could be probed,
    the reasons are told and the exit code is 2.
    """
    if sum([extract is not None, plan, share is not None, task is not None, collect, status]) > 1:
        raise FmctError("give at most one of --extract, --plan, --share, --task, --collect and --status")
    from fmct_hpc.probe.sweep.run import Sweep
    from launch.own_code import load_sweep

    grid = Sweep(load_sweep(config, overrides or [], allow_code), out)
    if status:
        echo(grid.status())
    elif plan:
        planned = grid.plan()
        echo(f"{out}: {len(planned.units)} units in {len(planned.tasks)} tasks")
    elif collect:
        _tell(out, grid.collect())
    elif extract is not None:
        with progress("features") as update:
            grid.extract(None if extract == -1 else extract, update)
    elif share is not None:
        echo(f"share {share}: {grid.run_share(*numbers_of_share(share))} units computed")
    elif task is not None:
        with progress(f"task {task}") as update:
            echo(f"task {task}: {grid.run_task(task, update)} units computed")
    else:
        with progress("sweep") as update:
            summary = grid.run(update)
        _tell(out, summary)


def _tell(out: Path, summary: "Summary") -> None:
    """Print a sweep's results; raises FmctError where it is done and none of them has a figure."""
    from launch.report.printed import printed

    echo(printed(out))
    echo(f"{out}: {summary}")
    if summary.done == summary.units and summary.refused == summary.results:
        why = ", ".join(f"{code} ({count})" for code, count in summary.reasons.items())
        raise FmctError(
            f"{out}: no result has a figure: {why or 'there is none'}; labels of more patients help"
        )


def report(
    out: Annotated[Path, typer.Argument(help="HTML file to write; the model card is written beside it.")],
    run: Annotated[Path, typer.Option(help="Run folder of `fmct train`, finished or not.")],
    data: Annotated[Path | None, typer.Option(help="Output folder of `fmct preprocess`.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Output folder of `fmct probe` or `fmct sweep`.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature store to map volumes by, if not the one in --probe.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="What `fmct labels` wrote, to colour the map by.")
    ] = None,
    relevance: Annotated[
        Path | None, typer.Option(help="Output folder of `fmct relevance --masks`, for its figures.")
    ] = None,
    segment: Annotated[Path | None, typer.Option(help="Output folder of `fmct segment`.")] = None,
    unbroken: Annotated[
        Path | None, typer.Option(help="Run folder of the same training without an interruption, to compare.")
    ] = None,
) -> None:
    """Write all about a run as one self-contained page (OUT.html) and as a model card (OUT.md).

    Data, rejections, curves, health, reconstructions, attention, probes, limits, provenance. What is not
    given or not there yet is left out, and the page says so. The last lines on the screen say what was shown.
    """
    from launch.report import report as write_report
    from launch.report.shown import LINE, shown

    card = write_report(out, run, data, probe, features, labels, relevance=relevance, segment=segment)
    told = shown(run, data, probe, unbroken)
    echo(f"{out}: open it in any browser, it needs no network; {card}: the same as a model card")
    echo(f"\nWhat was shown\n{told}\n{LINE.format('report', out)}")
