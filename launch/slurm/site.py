"""A site's Slurm: what each stage asks for there. Typed, closed, read from a site YAML."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected a path from /")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Positive = Annotated[int, Field(ge=1)]
Directives = dict[str, str | int | bool]
Bind = Annotated[str, Field(pattern=r"^/[^:,\s]*(:/[^:,\s]*(:(ro|rw))?)?$")]
"""SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Resources(_Section):
    """What one job of a stage asks Slurm for; what is left out is the site's default."""

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Node features, for example a GPU type."""
    time_minutes: Positive = 60
    """Time limit. A stage that nears it keeps what it has and queues itself again, so it need not fit."""
    cpus_per_task: Positive = 1
    """Cores for each rank of training; for the others, which work in as many processes, for a task."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of each node, in GiB."""
    directives: Directives = {}
    """Further sbatch options without their dashes, for example `exclude: node7` or `exclusive: true`."""


class Mail(_Section):
    """Slurm's mails about jobs."""

    user: str
    type: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_90", "ALL"], ...] = (
        "END",
        "FAIL",
    )
    """What it writes about (sbatch --mail-type)."""


class Container(_Section):
    """An image that has fmct-hpc, in which the stages' commands run."""

    runtime: Literal["apptainer", "enroot", "pyxis"]
    """pyxis is Enroot through options of srun; submitit's part then runs in the image too."""
    image: str
    """A file; for pyxis, or Apptainer's docker://, whatever it can pull."""
    binds: tuple[Bind, ...] = ()
    """Folders of the host that jobs see: code, data, runs. Scratch and cache are added to them."""


class Site(_Section):
    """All of a site file."""

    account: str | None = None
    modules: tuple[str, ...] = ()
    """What `module load` loads before every job."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = {}
    """Variables of every job: proxies, NCCL's interfaces."""
    setup: tuple[str, ...] = ()
    """Further shell lines before every job, for example a virtual environment's."""
    container: Container | None = None
    scratch: AbsolutePath | None = None
    """A folder on each node's own disk for temporary files (TMPDIR)."""
    cache: AbsolutePath | None = None
    """A folder on each node's own disk for training's copies of shards (data.cache)."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Most that these may take (data.cache_gb)."""
    mail: Mail | None = None
    directives: Directives = {}
    """Further sbatch options of every job, without their dashes; a stage's own come before them."""
    light: Resources = Resources()
    """What plans, keys labels, collects and reports: one core, minutes."""
    scan: Resources = Resources()
    preprocess: Resources = Resources()
    train: Resources = Resources()
    probe: Resources = Resources()
    width: Positive = 64
    """Most tasks of one array that run at a time."""
    array_size: Positive = 1000
    """Most tasks in one array (`scontrol show config | grep MaxArraySize`)."""
    backoff_seconds: Positive = 60
    """How long a job that failed waits before its next start; doubled with each failure in a row."""
    warn_seconds: Annotated[int, Field(ge=1, le=65535)] = 120
    """How long before the time limit a job is told (SIGUSR2), so that training can save."""

    @model_validator(mode="after")
    def _cache_has_a_place(self) -> "Site":
        if self.cache_gb and not self.cache:
            raise ValueError("cache_gb needs cache, the folder that it bounds")
        return self
