"""The report's section on the attempts of a run: the steps of each, and why it ended."""

from fmct_hpc.train.attempts import Attempt
from launch.report.document import Cell, Section, Text, cell, table

OMITTED = (
    "Host names, job numbers and error messages are not included; they are in the run folder (attempts/)."
)


def attempts_section(attempts: list[Attempt]) -> Section:
    """One row per attempt, or a note if none is recorded."""
    if not attempts:
        return Section(
            "Attempts", (Text("Left out: the run folder has no attempt records that this version can read."),)
        )
    columns = ("attempt", "start (UTC)", "hours", "hosts", "ranks", "steps", "steps repeated", "end")
    caption = "Attempts of the run, and why each ended"
    lost = sum(attempt.lost_steps or 0 for attempt in attempts[:-1])
    repeated = f"Steps lost and repeated: {lost:,}. " if attempts[1:] else ""
    return Section("Attempts", (table(caption, columns, map(_row, attempts)), Text(repeated + OMITTED)))


def _row(attempt: Attempt) -> tuple[Cell, ...]:
    seconds = (attempt.ended - attempt.began).total_seconds() if attempt.ended else None
    steps = f"{attempt.first_step:,} to {attempt.last_step:,}" if attempt.steps else "none"
    return (
        cell(attempt.number),
        cell(f"{attempt.began:%Y-%m-%d %H:%M}"),
        cell(None if seconds is None else seconds / 3600, ".2f"),
        cell(len(attempt.hosts)),
        cell(attempt.world_size),
        Cell("" if attempt.last_step is None else steps, attempt.first_step, number=True),
        cell(attempt.lost_steps),
        cell(attempt.cause or "in progress"),
    )
