"""Submitting the pipeline's jobs: only those that are neither done nor queued, with their dependencies.

Finished steps are known from markers that the batch scripts write, queued ones from the scheduler. A step
is done if its marker and its outputs exist and none of its inputs is newer. The record of job numbers is for
users, and to report how an earlier job ended.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from launch.jobs.causes import error_line
from launch.pipeline.steps import DONE, Step
from launch.scheduler import Job, Queued, Scheduler
from launch.site import Site
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError
from shards.lock import writing
from shards.newer_version import read_error


class Submitted(Closed):
    """A step's newest job."""

    name: str
    number: Annotated[str, StringConstraints(pattern="^[0-9]+$")]
    at: datetime
    folder: Path
    """The folder of its log."""


class Record(Closed, frozen=False):
    """pipeline.json: each stage's newest job."""

    stages: dict[str, Submitted] = Field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """Whether a step is submitted."""

    step: Step
    submit: bool
    queued: Queued | None = None
    """Its job, if it stays in the queue; or, if `submit`, the pending one that the new one replaces."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.submit and self.queued is None


class Chain:
    """The steps of a pipeline in its folder, each before those that depend on it."""

    def __init__(self, out: Path, steps: list[Step], site: Site, scheduler: Scheduler) -> None:
        self.out, self.steps, self.site, self.scheduler = out, steps, site, scheduler

    def describe(self, again: str | None = None) -> Iterator[str]:
        """What `submit` would do: one line per step, then the scripts and commands; changes nothing."""
        queue = self.scheduler.queued()
        if queue is None:
            yield f"{self.scheduler.title} does not answer here, so queued jobs are unknown."
        decisions = decide(self.steps, queue or [], _read(self.out), again)
        known = {d.step.job.name: d.queued.number for d in decisions if d.queued and not d.submit}
        names = {*known, *(d.step.job.name for d in decisions if d.submit)}
        for decision in decisions:
            yield f"{decision.step.stage}: {_state(decision)}"
        for decision in decisions:
            if decision.submit:
                yield self.scheduler.describe(_waiting(decision.step, names), decision.step.folder, known)

    def submit(self, again: str | None = None) -> Iterator[str]:
        """Submit the steps that need it; yields one line per step.

        Raises FmctError if the scheduler does not answer or rejects a job, or a job of another configuration
        is queued.
        """
        with writing(self.out, "fmct launch pipeline"):
            queue = self.scheduler.queued()
            if queue is None:
                name = self.scheduler.title
                raise FmctError(f"{name} does not answer: run this where jobs are submitted from")
            record = _read(self.out)
            known: dict[str, str] = {}
            for decision in decide(self.steps, queue, record, again):
                step = decision.step
                if not decision.submit:
                    known |= {step.job.name: decision.queued.number} if decision.queued else {}
                    yield f"{step.stage}: {_state(decision)}"
                    continue
                before = record.stages.get(step.stage)
                failed = not (decision.queued or all(mark.exists() for mark in _marks(step)))
                if before and before.name == step.job.name and failed:
                    yield self._ending(step.stage, before)
                if decision.queued:
                    self.scheduler.cancel(decision.queued.number)
                if step.recipe:
                    write_text(*step.recipe)
                for mark in _marks(step):
                    mark.unlink(missing_ok=True)
                (self.out / DONE).mkdir(exist_ok=True)
                write_text(step.folder / "site.json", self.site.model_dump_json(indent=1))
                [number] = self.scheduler.submit([_waiting(step, set(known))], step.folder, known)
                known[step.job.name] = number
                record.stages[step.stage] = Submitted(
                    name=step.job.name, number=number, at=datetime.now(UTC), folder=step.folder
                )
                write_text(_path(self.out), record.model_dump_json(indent=1))
                yield f"{step.stage}: job {number}, {step.job.size}, logs {step.folder}/{number}*.out"

    def _ending(self, stage: str, before: Submitted) -> str:
        """How the last job of a step ended, from the scheduler and its log."""
        facts = self.scheduler.job_starts([before.number]) or self.scheduler.jobs_known(before.number) or []
        last = {
            fact.job: fact.state.lower() for fact in facts
        }  # of a task that was queued again, its last start
        states = sorted(set(last.values()) - {"completed"})
        how = " and ".join(states) or (
            "completed" if facts else f"how is no longer known to {self.scheduler.title}"
        )
        message = ""
        for log in sorted(before.folder.glob(f"{before.number}_*log.out")):
            line = error_line(log.read_text(errors="replace"))
            message = f": {line}" if line else message
        return f"{stage}: job {before.number} ended ({how}){message}"


def decide(
    steps: list[Step], queue: Iterable[Queued], record: Record, again: str | None = None
) -> list[Decision]:
    """Decide for each step whether to submit it.

    again: a finished stage to repeat, together with those that follow it.

    Raises FmctError if a job is running on inputs that must be made again, or a job of another configuration
    is queued.
    """
    named = {job.name: job for job in queue}
    decisions: list[Decision] = []
    submitted: set[str] = set()  # to be submitted
    unsettled: set[str] = set()  # these and those in the queue
    times: dict[str, float] = {}  # completion times of finished steps
    for step in steps:
        name, needed = step.job.name, set(step.job.needs)
        before = record.stages.get(step.stage)
        if before and before.name != name and before.name in named:
            raise FmctError(
                f"{step.stage} with another configuration is in the queue, as job "
                f"{named[before.name].number}: wait for it, or cancel it (fmct launch cancel)"
            )
        queued = named.get(name)
        renewed = (step.stage == again and not queued) or bool(needed & submitted)
        if queued and renewed and queued.state != "PENDING":
            raise FmctError(
                f"{step.stage} is running as job {queued.number}, but its inputs must be made again: "
                "wait for it, or cancel it (fmct launch cancel)"
            )
        done = None if queued or renewed or needed & unsettled else _done(step, times)
        if done is not None:
            times[name] = done
            decisions.append(Decision(step, False))
            continue
        unsettled.add(name)
        submit = renewed or not queued
        if submit:
            submitted.add(name)
        decisions.append(Decision(step, submit, queued))
    return decisions


def _done(step: Step, times: Mapping[str, float]) -> float | None:
    """When a step was done; None if it is not, or if an input is newer."""
    marks = _marks(step)
    if not marks or not all(path.exists() for path in (*marks, *step.outputs)):
        return None
    made = [mark.stat().st_mtime for mark in marks]
    sources = [times[name] for name in step.job.needs]
    sources += [path.stat().st_mtime for path in step.inputs]
    return max(made) if max(sources, default=0.0) <= min(made) else None


def _marks(step: Step) -> list[Path]:
    """The files that the job's tasks touch on success."""
    done, tasks = step.job.done, len(step.job.commands)
    if done is None:
        return []
    return [done.with_name(f"{done.name}.{task}") for task in range(tasks)] if tasks > 1 else [done]


def _waiting(step: Step, known: set[str]) -> Job:
    """The step's job, without dependencies on finished jobs, which the scheduler may have forgotten."""
    job = step.job
    return replace(
        job,
        after_success=tuple(name for name in job.after_success if name in known),
        after_end=tuple(name for name in job.after_end if name in known),
    )


def _state(decision: Decision) -> str:
    queued = decision.queued
    if decision.done:
        return "done"
    if queued and not decision.submit:
        why = f" ({queued.reason})" if queued.reason else ""
        return f"job {queued.number} is {queued.state.lower()}{why}"
    return f"to submit, {decision.step.job.size}" + (f", in place of job {queued.number}" if queued else "")


def _path(out: Path) -> Path:
    return out / "pipeline.json"


def _read(out: Path) -> Record:
    try:
        return Record.model_validate_json(_path(out).read_bytes())
    except FileNotFoundError:
        return Record()
    except ValidationError as error:
        raise read_error(_path(out), error, "not a record of this version; move it elsewhere") from None
