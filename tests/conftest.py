import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).parents[1]

LONGEST = (
    "test_quickstart.py",
    "test_train.py",
    "test_holdout.py",
    "test_readme.py",
    "test_is_it_learning.py",
)
"""Files of a minute and more each, the longest first: at the end they would run alone."""


class Rows(LoadFileScheduling):
    """Tests run at a time: a file's stay in one process, with its fixtures; those on the cluster in one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "cluster" if _is_on_cluster(file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Rows:
    return Rows(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the cluster's, the longest row, and then with the longest files."""

    def turn(item: pytest.Item) -> int:
        name = item.path.name
        if _is_on_cluster(name):
            return 0
        return 1 + (LONGEST.index(name) if name in LONGEST else len(LONGEST))

    items.sort(key=turn)


def _is_on_cluster(file: str | Path) -> bool:
    return Path(file).name.startswith("test_slurm_")


@pytest.fixture
def shared_dicom() -> Callable[[str], Path]:
    """Real series kept beside the repository; without them tests skip, and fail in CI."""

    def find(name: str) -> Path:
        folder = REPOSITORY.parent / "shared" / "dicom" / name
        if not folder.is_dir():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no ../shared/dicom/{name}")
        return folder

    return find


@pytest.fixture
def cluster() -> Cluster:
    """Without the cluster tests skip, and fail in CI."""
    if "FMCT_CLUSTER_DIR" not in os.environ or not shutil.which("sinfo"):
        problem = "no Slurm here: run tests/run.sh as root"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)
    os.environ["SLURM_CONF"] = str(Path(os.environ["FMCT_CLUSTER_DIR"]) / "slurm.conf")
    return Cluster()
