"""The evaluation commands: probes, sweeps, retrieval, subgroups, the study, the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.arguments import (
    AllowCode,
    Collect,
    ConfigFile,
    Extract,
    Overrides,
    Plan,
    ShareOption,
    Status,
    Task,
    Workers,
    at_most_one,
)
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError
from shards.share import Share

if TYPE_CHECKING:
    from fmct_hpc.probe.sweep.collect import Summary


def probe(
    run: Annotated[Path, typer.Argument(help="A run folder, or one of its checkpoints/step-... folders.")],
    out: Annotated[Path, typer.Option(help="Output folder for results and predictions.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Probe an encoder: logistic regression and kNN on labels, compared with the untrained encoder."""
    from fmct_hpc.probe.config import ProbeConfig
    from fmct_hpc.probe.run import probe as probe_run
    from launch.config import load

    settings = load(ProbeConfig, config, overrides or [])
    with progress("features") as update:
        result = probe_run(run, settings, out, update)
    echo(result.table())


def retrieval(
    config: Annotated[Path, typer.Argument(help="YAML configuration of a sweep; `search` may be added.")],
    out: Annotated[Path, typer.Option(help="Output folder for the table.")],
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Evaluate retrieval of volumes with the same label: mean average precision and recall."""
    from fmct_hpc.retrieval.config import RetrievalConfig
    from fmct_hpc.retrieval.run import printed
    from fmct_hpc.retrieval.run import retrieval as measure
    from launch.own_code import load_own

    settings = load_own(RetrievalConfig, config, overrides or [], allow_code)
    with progress("features") as update:
        table = measure(settings, out, update)
    echo(printed(table))


def subgroups(
    results: Annotated[Path, typer.Argument(help="Output folder of `fmct probe` or `fmct sweep`.")],
    data: Annotated[Path, typer.Option(help="The shard dataset that was probed.")],
    groups: Annotated[
        Path | None,
        typer.Option(help="Parquet file with study_key and text columns to group by, where permitted."),
    ] = None,
) -> None:
    """Break down probe results by scanner, kernel, slices, and columns of your own."""
    from fmct_hpc.probe.subgroups import TABLE, printed
    from fmct_hpc.probe.subgroups import subgroups as break_down

    echo(printed(break_down(results, data, groups)))
    echo(f"{results / TABLE}: all groups, with intervals")


def robustness(
    config: Annotated[Path, typer.Argument(help="YAML of a sweep; `changes` may be added.")],
    out: Annotated[Path, typer.Option(help="Folder for the table; an existing one is resumed.")],
    classifier: Annotated[
        list[Path] | None,
        typer.Option(
            help="Exported classifiers (`fmct export-classifier`) of the sweep, instead of its own."
        ),
    ] = None,
    extract: Extract = None,
    share: ShareOption = None,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Evaluate a sweep's classifiers on degraded test volumes: thicker slices, other kernels, noise.

    The classifiers are those of the sweep, without refitting. Safe to repeat: finished scores are kept.
    """
    at_most_one(extract=extract, share=share)
    from fmct_hpc.robustness.config import RobustnessConfig
    from fmct_hpc.robustness.figures import printed
    from fmct_hpc.robustness.run import TABLE, extracted
    from fmct_hpc.robustness.run import robustness as measure
    from launch.own_code import load_own

    settings = load_own(RobustnessConfig, config, overrides or [], allow_code)
    if extract is not None:
        with progress("features") as update:
            extracted(settings, out, tuple(classifier or ()), None if extract == -1 else extract, update)
        return
    with progress("changed volumes") as update:
        numbers = Share.parse(share) if share else None
        table = measure(settings, out, tuple(classifier or ()), numbers, update)
    if table is None:
        echo(f"share {share}: scored; when all shares are, run the same command without --share")
    else:
        echo(f"{printed(table)}\n{out / TABLE}: every figure, with intervals")


def study(
    out: Annotated[Path, typer.Option(help="Output folder; an existing study is resumed.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML recipe; default: launch/recipes/study.yaml.")
    ] = None,
    workers: Workers = 2,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only write the report, from the finished parts.")
    ] = False,
    tuning: Annotated[
        bool,
        typer.Option(
            "--tune", help="Instead, tune the fine-tuning settings of each arm on the tuning cohort."
        ),
    ] = False,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Only the main comparison, as set in the recipe's `reduced`.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Compare pretraining (DINO, MAE, both) with training from scratch on synthetic heads.

    Generates the heads, pretrains at several data sizes, probes and fine-tunes with several label budgets,
    and writes report.md, results.parquet and figures. Safe to repeat: finished parts are kept.
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
    config: Annotated[
        Path, typer.Argument(help="YAML configuration; see launch/recipes/sweep-example.yaml.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for results, predictions and comparisons.")],
    extract: Extract = None,
    plan: Plan = False,
    share: ShareOption = None,
    task: Task = None,
    collect: Collect = False,
    status: Status = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Probe encoders in a grid of tasks, methods, layers, label budgets and seeds, with paired tests.

    Safe to repeat: only missing or changed parts are computed. If nothing could be probed, the reasons are
    printed and the exit code is 2.
    """
    at_most_one(extract=extract, plan=plan, share=share, task=task, collect=collect, status=status)
    from fmct_hpc.probe.sweep.run import Sweep
    from launch.own_code import load_sweep

    grid = Sweep(load_sweep(config, overrides or [], allow_code), out)
    if status:
        echo(grid.status())
    elif plan:
        planned = grid.plan()
        echo(f"{out}: {len(planned.units)} units in {len(planned.tasks)} tasks")
    elif collect:
        _print_results(out, grid.collect())
    elif extract is not None:
        with progress("features") as update:
            grid.extract(None if extract == -1 else extract, update)
    elif share is not None:
        with progress(f"share {share}") as update:
            echo(f"share {share}: {grid.run_share(*Share.parse(share), update)} units computed")
    elif task is not None:
        with progress(f"task {task}") as update:
            echo(f"task {task}: {grid.run_task(task, update)} units computed")
    else:
        with progress("sweep") as update:
            summary = grid.run(update)
        _print_results(out, summary)


def _print_results(out: Path, summary: "Summary") -> None:
    """Print a sweep's results; raises FmctError if it is done without any figure."""
    from launch.report.sweep_table import printed

    echo(printed(out))
    echo(f"{out}: {summary}")
    if summary.done == summary.units and summary.refused == summary.results:
        why = ", ".join(f"{code} ({count})" for code, count in summary.reasons.items())
        raise FmctError(
            f"{out}: no result has a figure: {why or 'there are no results'}; add labels of more patients"
        )


def report(
    out: Annotated[Path, typer.Argument(help="HTML file to write; the model card is written beside it.")],
    run: Annotated[Path, typer.Option(help="Run folder of `fmct train`, also of a run in progress.")],
    data: Annotated[Path | None, typer.Option(help="Output folder of `fmct preprocess`.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Output folder of `fmct probe` or `fmct sweep`.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature store for the map of volumes, if not the one in --probe.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Output of `fmct labels`, to colour the map with.")
    ] = None,
    relevance: Annotated[
        Path | None, typer.Option(help="Output folder of `fmct relevance --masks`, for its figures.")
    ] = None,
    segment: Annotated[Path | None, typer.Option(help="Output folder of `fmct segment`.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Output folder of `fmct retrieval`.")] = None,
    robustness: Annotated[Path | None, typer.Option(help="Output folder of `fmct robustness`.")] = None,
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Folder of `fmct export-classifier`, to be listed.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Output folder of `fmct predict`, to be counted.")
    ] = None,
    unbroken: Annotated[
        Path | None, typer.Option(help="Run folder of the same training without interruption, to compare.")
    ] = None,
) -> None:
    """Write a report of a run: a self-contained HTML page and a model card in Markdown.

    It covers data, rejections, curves, health, reconstructions, attention, probes (with the groups of `fmct
    subgroups` where they exist), limits and provenance. Parts whose inputs are not given or do not exist yet
    are omitted, the main ones with a note. A summary is printed.
    """
    from launch.report import report as write_report
    from launch.report.sources import Sources
    from launch.report.summary import LINE, shown

    sources = Sources(
        run,
        data,
        probe,
        features,
        labels,
        relevance=relevance,
        segment=segment,
        retrieval=retrieval,
        robustness=robustness,
        classifiers=classifier or (),
        predictions=predictions,
    )
    card = write_report(out, sources)
    summary = shown(run, data, probe, unbroken)
    echo(f"{out}: opens in any browser, without a network; {card}: model card with the same contents")
    echo(f"\nSummary\n{summary}\n{LINE.format('report', out)}")
