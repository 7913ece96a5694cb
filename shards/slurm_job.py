"""Slurm's environment variables (sbatch(1) and srun(1), OUTPUT ENVIRONMENT VARIABLES)."""

from collections.abc import Mapping

from shards.errors import FmctError
from shards.job import JobEnd, RunningJob

PREFIX = "SLURM_"
NUMBER, RESTARTS, END = "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_END_TIME"
RANK, RANKS, LOCAL_RANK = "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"
ARRAY, INDEX = "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"
TEXTS = {
    "cluster": "SLURM_CLUSTER_NAME",
    "partition": "SLURM_JOB_PARTITION",
    "account": "SLURM_JOB_ACCOUNT",
    "qos": "SLURM_JOB_QOS",
    "nodes": "SLURM_JOB_NODELIST",
}
_SIGNS = (NUMBER, RESTARTS, END, RANK, INDEX)
"""Variables that indicate a job, or a shell opened in one."""


def read(variables: Mapping[str, str]) -> RunningJob | None:
    """The job described by the variables; None outside Slurm.

    Bytes that are not UTF-8 become replacement characters. Raises FmctError if a number is damaged.
    """
    if not any(name in variables for name in _SIGNS):
        return None

    def text(name: str) -> str | None:
        value = variables.get(name)
        return value and value.encode(errors="surrogateescape").decode(errors="replace")

    def number(name: str) -> int | None:
        value = text(name)
        try:
            return int(value) if value else None
        except ValueError:
            raise FmctError(f"{name}={value!r}: expected a whole number, as Slurm sets it") from None

    index, job, end = number(INDEX), text(NUMBER), text(END)
    if job and index is not None:
        job = f"{text(ARRAY)}_{index}"  # the last task's NUMBER is the ID of the whole array
    return RunningJob(
        scheduler="slurm",
        number=job,
        restarts=number(RESTARTS) or 0,
        rank=number(RANK),
        ranks=number(RANKS),
        local_rank=number(LOCAL_RANK),
        end=JobEnd(END, end) if end else None,
        **{field: text(name) for field, name in TEXTS.items()},
    )
