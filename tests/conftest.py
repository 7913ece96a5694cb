import atexit
import gc
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from durations import SLOW_FILE, Durations
from forked_commands import forked_python
from slurm_cluster import Cluster
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).parents[1]
SAFE_PATH = "PYTHONSAFEPATH"

DURATIONS = Durations.read()

gc.disable()  # until all test modules are imported: each search for garbage would go through all of them


class Rows(LoadFileScheduling):
    """Scheduling: the tests of a file run in one process, with its fixtures; all cluster tests run in one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "cluster" if _is_on_cluster(file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Rows:
    gc.enable()  # in this process, which collects no tests
    return Rows(config, log)


def pytest_xdist_setupnodes() -> None:
    """Start one process from which the tests' commands are forked, for all worker processes."""
    forked_python()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="value of the fixtures seed and fixed_seed")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast`, import fast files only: the libraries of the others take longer than the fast tests."""
    is_other = collection_path.name.startswith("test_") and _file(collection_path) not in DURATIONS.fast
    return True if config.option.markexpr == "fast" and is_other else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests fast and slow; start with the cluster's tests, the longest group, then the slow files.

    At the end these would run alone.
    """
    for item in items:
        file = _file(item.path)
        if file in DURATIONS.fast:
            item.add_marker(pytest.mark.fast)
        if DURATIONS.is_slow(file, item.name.partition("[")[0]):
            item.add_marker(pytest.mark.slow)

    def turn(item: pytest.Item) -> float:
        if _is_on_cluster(item.path):
            return -math.inf
        seconds = DURATIONS.seconds.get(_file(item.path), 0.0)
        return -seconds if seconds >= SLOW_FILE else 0.0

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    gc.freeze()  # no test, and not pytest's end, searches for garbage among what is imported
    atexit.register(gc.unfreeze)  # nanobind would report its types as leaked
    gc.enable()


def _file(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _is_on_cluster(file: str | Path) -> bool:
    return Path(file).name.startswith("test_slurm_")


@pytest.fixture(autouse=True)
def path_of_child_processes() -> Iterator[None]:
    """Undo what `launch.cli.main` sets in a test: scripts of the next one import from their own folder."""
    before = os.environ.get(SAFE_PATH)
    yield
    os.environ.pop(SAFE_PATH, None)
    if before is not None:
        os.environ[SAFE_PATH] = before


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of a test's random values: a new one each time, printed if the test fails, or `--seed`."""
    given: int | None = request.config.getoption("seed")
    return _printed(secrets.randbits(32) if given is None else given)


@pytest.fixture
def fixed_seed(request: pytest.FixtureRequest) -> int:
    """Seed of a sample of many cases, the same in each run of the suite: 0, or `--seed`."""
    return _printed(request.config.getoption("seed") or 0)


def _printed(seed: int) -> int:
    print(f"--seed {seed}")
    return seed


@pytest.fixture
def shared_dicom() -> Callable[[str], Path]:
    """Real series in a folder next to the repository; without them tests are skipped, and fail in CI."""

    def find(name: str) -> Path:
        folder = REPOSITORY.parent / "shared" / "dicom" / name
        if not folder.is_dir():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no ../shared/dicom/{name}")
        return folder

    return find


@pytest.fixture
def cluster() -> Cluster:
    """Without the cluster, tests are skipped; in CI they fail."""
    if "FMCT_CLUSTER_DIR" not in os.environ or not shutil.which("sinfo"):
        problem = "no Slurm here: run tests/run.sh as root"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)
    os.environ["SLURM_CONF"] = str(Path(os.environ["FMCT_CLUSTER_DIR"]) / "slurm.conf")
    return Cluster()
