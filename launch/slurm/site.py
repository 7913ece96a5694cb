"""A site's Slurm: what each stage asks for there. Typed, closed, read from a site YAML."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StringConstraints,
    field_validator,
    model_validator,
)

from launch.slurm.plain import fault, texts
from shards.section import Section
from shards.sharing_section import Sharing


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected a path from /")
    if "," in str(path) or ":" in str(path):
        raise ValueError("expected a path without , and : which container runtimes divide their options by")
    return path


def _directive(text: str) -> str:
    if not text or "\\" in text:
        raise ValueError("expected text without a backslash, which sbatch reads in its own way")
    return text


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Positive = Annotated[int, Field(ge=1)]
Directive = Annotated[str, AfterValidator(_directive)]
"""What stands behind the = of an `#SBATCH` line."""
Directives = dict[Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]*$")], StrictBool | Directive]
Word = Annotated[str, StringConstraints(pattern="^[^-]")]
"""An argument that is not taken for an option."""
Bind = Annotated[str, Field(pattern=r"^/[^:,\s]*(:/[^:,\s]*(:(ro|rw))?)?$")]
"""SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro."""


class _Section(Section):
    shell: ClassVar[tuple[str, ...]] = ()
    """Keys whose values are shell lines, which may have tabs; no other value may end a line of a script."""

    @model_validator(mode="after")
    def _enters_a_script(self) -> Self:
        for key in type(self).model_fields:
            for place, text in texts(getattr(self, key), key):
                if found := fault(text.replace("\t", " ") if key in self.shell else text):
                    raise ValueError(f"{place}: {found}")
        return self


class Resources(_Section):
    """What one job of a stage asks Slurm for; what is left out is the site's default."""

    partition: Directive | None = None
    qos: Directive | None = None
    constraint: Directive | None = None
    """Node features, for example a GPU type."""
    time_minutes: Positive = 60
    """Time limit. A stage that nears it keeps what it has and queues itself again, so it need not fit."""
    cpus_per_task: Positive = 1
    """Cores for each rank of training; for the others, which work in as many processes, for a task."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of each node, in GiB."""
    directives: Directives = Field(default_factory=dict)
    """Further sbatch options without their dashes, for example `exclude: node7` or `exclusive: true`."""


class Mail(_Section):
    """Slurm's mails about jobs."""

    user: Directive
    type: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_90", "ALL"], ...] = (
        "END",
        "FAIL",
    )
    """What it writes about (sbatch --mail-type)."""


class Container(_Section):
    """An image that has fmct-hpc, in which the stages' commands run."""

    runtime: Literal["apptainer", "enroot", "pyxis"]
    """pyxis is Enroot through options of srun; submitit's part then runs in the image too."""
    image: Word
    """A file; for pyxis, or Apptainer's docker://, whatever it can pull."""
    binds: tuple[Bind, ...] = ()
    """Folders of the host that jobs see: code, data, runs. Scratch and cache are added to them."""


class Site(_Section):
    """All of a site file."""

    shell = ("setup",)

    account: Directive | None = None
    modules: tuple[Word, ...] = ()
    """What `module load` loads before every job."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = Field(default_factory=dict)
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
    privacy: Sharing = Sharing()
    directives: Directives = Field(default_factory=dict)
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

    @field_validator("setup")
    @classmethod
    def _line_by_line(cls, setup: tuple[str, ...]) -> tuple[str, ...]:
        lines = tuple(line for item in setup for line in item.split("\n"))
        if any(line.lstrip().startswith("#SBATCH") for line in lines):
            raise ValueError("expected shell lines; sbatch options go into directives")
        return lines

    @model_validator(mode="after")
    def _cache_has_a_place(self) -> "Site":
        if self.cache_gb and not self.cache:
            raise ValueError("cache_gb needs cache, the folder that it bounds")
        return self
