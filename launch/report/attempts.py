"""The report's part about the attempts at a run: which steps each did, and why it ended."""

from fmct_hpc.train.attempts import Attempt
from launch.report.document import Cell, Section, Text, cell, table

STAYS = (
    "Hosts, job numbers and the words of errors are not told here; they stay in the run folder (attempts/)."
)


def attempts_section(attempts: list[Attempt]) -> Section:
    """A row an attempt, or a line that there is no record of any."""
    if not attempts:
        return Section(
            "Attempts", (Text("Left out: the run folder has no record of attempts that this version reads."),)
        )
    columns = ("attempt", "began (UTC)", "hours", "hosts", "ranks", "steps", "to do again", "end")
    caption = "Starts of the run, and why each ended"
    lost = sum(attempt.lost_steps or 0 for attempt in attempts[:-1])
    again = f"Steps that were done and had to be done again: {lost:,}. " if attempts[1:] else ""
    return Section("Attempts", (table(caption, columns, map(_row, attempts)), Text(again + STAYS)))


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
        cell(attempt.cause or "goes on"),
    )
