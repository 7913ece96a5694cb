"""A site's Slurm: what each stage asks for there. Typed, closed, read from a site YAML."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Section):
    """What one job of a stage asks Slurm for; what is left out is the site's default."""

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Node features, for example a GPU type."""
    time_minutes: Positive = 60
    """Time limit. Training that nears it saves and queues itself again, so it need not fit."""
    cpus_per_task: Positive = 1
    """Cores for each rank of training, or for each preprocessing task or probe."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of each node, in GiB."""
    directives: dict[str, str | int | bool] = {}
    """Further sbatch options without their dashes, for example `exclude: node7`."""


class Site(_Section):
    """All of a site file."""

    account: str | None = None
    setup: list[str] = []
    """Shell lines before every job: modules, virtual environment, proxies of the site."""
    preprocess: Resources = Resources()
    train: Resources = Resources()
    probe: Resources = Resources()
    width: Positive = 64
    """Most tasks of one array that run at a time."""
    array_size: Positive = 1000
    """Most tasks in one array (`scontrol show config | grep MaxArraySize`); more go into further arrays."""
    backoff_seconds: Positive = 60
    """How long a job that failed waits before its next start; doubled with each failure in a row."""
    warn_seconds: Annotated[int, Field(ge=1, le=65535)] = 120
    """How long before the time limit a job is told (SIGUSR2), so that training can save."""
