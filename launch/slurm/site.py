"""The site file: the Slurm resources of each stage on a cluster, as a typed model without unknown keys."""

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

from launch.program import FMCT
from launch.slurm.plain import fault, texts
from shards.section import Section
from shards.sharing_section import Sharing


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected an absolute path")
    if "," in str(path) or ":" in str(path):
        raise ValueError("expected a path without , and : which separate options of container runtimes")
    return path


def _directive(text: str) -> str:
    if not text or "\\" in text:
        raise ValueError("expected text without a backslash, which sbatch interprets")
    return text


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Positive = Annotated[int, Field(ge=1)]
Directive = Annotated[str, AfterValidator(_directive)]
"""The value after the = of an `#SBATCH` line."""
Directives = dict[Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]*$")], StrictBool | Directive]
Word = Annotated[str, StringConstraints(pattern="^[^-]")]
"""An argument that cannot be mistaken for an option."""
Bind = Annotated[str, Field(pattern=r"^/[^:,\s]*(:/[^:,\s]*(:(ro|rw))?)?$")]
"""SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro."""


class _Section(Section):
    shell: ClassVar[tuple[str, ...]] = ()
    """Keys whose values are shell lines, which may contain tabs; no other value may contain line breaks."""

    @model_validator(mode="after")
    def _enters_a_script(self) -> Self:
        for key in type(self).model_fields:
            for place, text in texts(getattr(self, key), key):
                if problem := fault(text.replace("\t", " ") if key in self.shell else text):
                    raise ValueError(f"{place}: {problem}")
        return self


class Resources(_Section):
    """The resources that a job of a stage requests; omitted keys mean the cluster's defaults."""

    partition: Directive | None = None
    qos: Directive | None = None
    constraint: Directive | None = None
    """Node features, for example a GPU type."""
    time_minutes: Positive = 60
    """Time limit. A stage may take longer: it saves its work before the limit and is queued again."""
    cpus_per_task: Positive = 1
    """Cores per rank of training; per task of the other stages, which use as many processes."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of each node, in GiB."""
    directives: Directives = Field(default_factory=dict)
    """Further sbatch options without their dashes, for example `exclude: node7` or `exclusive: true`."""


class Mail(_Section):
    """Slurm's e-mail notifications."""

    user: Directive
    type: tuple[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_90", "ALL"], ...] = (
        "END",
        "FAIL",
    )
    """Events to notify about (sbatch --mail-type)."""


class Container(_Section):
    """An image that contains fmct-hpc, in which the stages' commands run."""

    runtime: Literal["apptainer", "enroot", "pyxis"]
    """pyxis is Enroot through options of srun; submitit's part then runs in the image too."""
    image: Word
    """A file; for pyxis, or Apptainer's docker://, any image that can be pulled."""
    binds: tuple[Bind, ...] = ()
    """Host folders that are visible to jobs: code, data, runs. Scratch and cache are added to them."""


class Site(_Section):
    """The contents of a site file."""

    shell = ("setup",)

    account: Directive | None = None
    modules: tuple[Word, ...] = ()
    """Modules to load (`module load`) before every job."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = Field(default_factory=dict)
    """Environment variables of every job: proxies, NCCL's interfaces."""
    setup: tuple[str, ...] = ()
    """Further shell lines before every job, for example to activate a virtual environment."""
    container: Container | None = None
    scratch: AbsolutePath | None = None
    """A folder on each node's local disk for temporary files (TMPDIR)."""
    cache: AbsolutePath | None = None
    """A folder on each node's local disk for training's copies of shards (data.cache)."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Maximum size of these copies (data.cache_gb)."""
    mail: Mail | None = None
    privacy: Sharing = Sharing()
    directives: Directives = Field(default_factory=dict)
    """Further sbatch options of every job, without their dashes; a stage's own take precedence."""
    light: Resources = Resources()
    """Planning, keying labels, collecting and reporting: one core, minutes."""
    scan: Resources = Resources()
    preprocess: Resources = Resources()
    train: Resources = Resources()
    probe: Resources = Resources()
    width: Positive = 64
    """Maximum number of concurrent tasks of one array."""
    array_size: Positive = 1000
    """Maximum number of tasks in one array (`scontrol show config | grep MaxArraySize`)."""
    backoff_seconds: Positive = 60
    """Delay before a failed job's next start; doubled with each consecutive failure."""
    warn_seconds: Annotated[int, Field(ge=1, le=65535)] = 120
    """How long before the time limit a job is signalled (SIGUSR2), so that training can save."""

    @property
    def program(self) -> tuple[str, ...]:
        """The `fmct` of the site's jobs: this installation's, or the one in the container."""
        return ("fmct",) if self.container else FMCT

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
            raise ValueError("cache_gb needs cache, the folder whose size it limits")
        return self
