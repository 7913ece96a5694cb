"""What the stages need to know of a site, for any scheduler (launch/slurm/site.py is the model for Slurm)."""

from pathlib import Path
from typing import Protocol

from launch.scheduler import Requested


class Site(Protocol):
    """The contents of a site file: resources of each stage, and the sizes that stages are divided by."""

    @property
    def program(self) -> tuple[str, ...]:
        """The `fmct` of its jobs: this installation's, or the one in the site's container."""

    @property
    def light(self) -> Requested:
        """Planning, keying labels, collecting and reporting."""

    @property
    def scan(self) -> Requested:
        """The scan of an export."""

    @property
    def preprocess(self) -> Requested:
        """The tasks of preprocessing."""

    @property
    def train(self) -> Requested:
        """Pretraining."""

    @property
    def probe(self) -> Requested:
        """Probes, features, sweeps and predictions."""

    @property
    def width(self) -> int:
        """Maximum number of concurrent tasks of one array."""

    @property
    def array_size(self) -> int:
        """Maximum number of tasks in one array."""

    @property
    def cache(self) -> Path | None:
        """A folder on each node's local disk for training's copies of shards."""

    @property
    def cache_gb(self) -> float | None:
        """Maximum size of these copies."""

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """All keys, for the record of what was submitted."""
