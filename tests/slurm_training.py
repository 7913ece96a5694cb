"""A training in a Slurm job of two ranks on two nodes, for the tests of failures."""

import os
import sys
from pathlib import Path

import paced_training
import pytest
from slurm_cluster import Cluster
from small_training import small_config, write_dataset, write_recipe

from fmct_hpc.train.attempts import Attempt, attempts, last_figures
from fmct_hpc.train.checkpoint import newest
from launch.config import load
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Resources, Site

REPOSITORY = Path(__file__).parents[1]
SITE = load(Site, REPOSITORY / "launch/recipes/site-test.yaml", [])
STEPS, SAVE_EVERY, HIT = 30, 10, 14
"""Faults strike after step HIT, between the checkpoints of steps 10 and 20."""

rare = pytest.mark.skipif(os.environ.get("FMCT_FAILURES") != "all", reason="FMCT_FAILURES=all runs it")


class Training:
    """A training in a Slurm job of two ranks on two nodes, or here."""

    def __init__(self, folder: Path, cluster: Cluster | None) -> None:
        self.folder = folder
        self.run = folder / "run"
        self._cluster = cluster
        config = small_config(
            write_dataset(folder / "data"), run={"steps": STEPS, "checkpoint_every": SAVE_EVERY}
        )
        self.recipe = write_recipe(config, folder / "recipe.yaml")
        self.job = ""

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None
        return self._cluster

    @property
    def command(self) -> tuple[str, ...]:
        arguments = ("train", "--run", str(self.run), "--config", str(self.recipe))
        return (sys.executable, paced_training.__file__, *arguments)

    def submit(self, site: Site = SITE, resources: Resources = SITE.train) -> "Training":
        job = Job("fmct-train", (self.command,), resources, nodes=2, kept=("--run", str(self.run)))
        (self.job,) = Slurm(site).submit([job], self.run / "slurm")
        return self

    def at_step(self, step: int = HIT) -> "Training":
        self.cluster.until(lambda: last_figures(self.run).get("step", 0) >= step, 200, f"step {step}")
        return self

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.run / "slurm").glob("*.out")))

    def done(self, seconds: float = 200) -> list[Attempt]:
        state = self.cluster.wait(self.job, seconds)
        assert state == "COMPLETED", self.log()
        return attempts(self.run)

    def digests(self) -> dict[str, str]:
        """SHA-256 of the last checkpoint's files."""
        latest = newest(self.run)
        assert latest is not None
        assert latest[1].step == STEPS
        return {name: facts.sha256 for name, facts in latest[1].files.items()}
