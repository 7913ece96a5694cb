"""Ledgers: kills between work and marker, plans that change, shares, markers of other versions, progress."""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.jobs.ledgers import LEDGERS, Kind, counter
from launch.jobs.progress import progress, progress_of_job
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError, RefusedError
from shards.ledger import Ledger, mark, marked, once
from shards.lock import LockHeldError
from shards.progress import VARIABLE, Progress, register, registered
from shards.share import WHOLE, Share


class Marker(Closed):
    digest: str
    text: str


class Killed(BaseException):
    """Simulates SIGKILL: nothing handles it."""


class Stage:
    """Units that write their input to a file, then a marker; killed at a given point."""

    def __init__(self, out: Path, plan: tuple[str, ...]) -> None:
        self.out, self.plan = out, plan
        self.made: Counter[int] = Counter()
        self.kill: tuple[int, str] | None = None

    def digest(self, number: int) -> str:
        return hashlib.sha256(f"{number} {self.plan[number]}".encode()).hexdigest()

    def file(self, number: int) -> Path:
        return self.out / f"{number:05d}-{self.digest(number)[:8]}.txt"

    def kept(self, number: int) -> Marker | None:
        actual = marked(self.file(number).with_suffix(".json"), Marker)
        whole = actual and actual.digest == self.digest(number) and self.file(number).is_file()
        return actual if whole else None

    def make(self, number: int) -> None:
        self._die(number, "before")
        self.made[number] += 1
        write_text(self.file(number), self.plan[number])
        self._die(number, "between")
        mark(
            self.file(number).with_suffix(".json"),
            Marker(digest=self.digest(number), text=self.plan[number]),
        )
        self._die(number, "after")

    def _die(self, number: int, where: str) -> None:
        if self.kill == (number, where):
            raise Killed

    @property
    def ledger(self) -> Ledger[int, Marker]:
        return Ledger(range(len(self.plan)), self.kept)


INPUTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(tuple)
STARTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["before", "between", "after"]), st.integers(0, 3)),
    max_size=5,
)
HARM = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["marker", "file", "half"])), max_size=2)


@settings(max_examples=60, deadline=None)
@given(first=INPUTS, second=INPUTS, starts=STARTS, harm=HARM, shares=st.integers(1, 4))
def test_collecting_follows_the_plan_after_kills_damage_and_a_new_plan(
    first: tuple[str, ...],
    second: tuple[str, ...],
    starts: list[tuple[int, str, int]],
    harm: list[tuple[int, str]],
    shares: int,
) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder)
        for plan in (first, second):
            stage = Stage(out, plan)
            for unit, where, share in starts:
                stage.kill = (unit, where)
                try:
                    stage.ledger.share(Share(share % shares, shares)).make(stage.make)
                except Killed:
                    assert unit < len(plan)
            stage.kill = None
            for unit, what in harm:
                if unit < len(plan):
                    path = stage.file(unit).with_suffix(".txt" if what == "file" else ".json")
                    path.unlink(missing_ok=True)
                    if what == "half":
                        path.write_text('{"digest": "')
            done = {unit for unit in range(len(plan)) if stage.kept(unit)}
            assert stage.ledger.done() == sorted(done)
            assert stage.ledger.missing() == [n for n in range(len(plan)) if n not in done]
            before = stage.made.copy()
            todo = sum(
                stage.ledger.share(Share(share, shares)).make(stage.make) for share in reversed(range(shares))
            )
            assert todo == len(plan) - len(done)
            assert {unit for unit in stage.made if stage.made[unit] > before[unit]} == set(
                range(len(plan))
            ) - done
            actual = stage.ledger.collect(lambda missing: FmctError(str(missing)))
            assert [one.text for one in actual] == list(plan)


def test_missing_units_are_named_and_nothing_is_collected(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ("a", "b", "c"))
    stage.make(1)
    with pytest.raises(FmctError, match=r"^\[0, 2\]$"):
        stage.ledger.collect(lambda missing: FmctError(str(missing)))


def test_all_missing_units_are_known_before_the_first_is_made(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ("a", "b", "c"))
    seen: list[object] = []
    stage.make(1)
    assert stage.ledger.make(stage.make, lambda *at: seen.append(at), seen.append) == 2
    assert seen == [[0, 2], (0, 2), (1, 2), (2, 2)]


@given(units=st.integers(0, 50), shares=st.integers(1, 60))
def test_shares_cover_each_unit_once(units: int, shares: int) -> None:
    parts = [Share(n, shares).part(range(units)) for n in range(shares)]
    assert sorted(unit for part in parts for unit in part) == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for number, part in enumerate(parts):
        assert [unit for unit in range(units) if Share(number, shares).has(unit)] == list(part)
        assert Share.parse(f"{number}/{shares}") == (number, shares)
    for unit in range(units):
        assert list(Share.only(unit).part(range(units))) == [unit]


@pytest.mark.parametrize("text", ["3/3", "-1/2", "1", "a/b", "1/2/3", "1/", "0/0", "1.0/2"])
def test_an_invalid_share_is_refused(text: str) -> None:
    with pytest.raises(FmctError, match="--share"):
        Share.parse(text)


def test_a_unit_is_made_by_one_process_and_reused_by_the_next(tmp_path: Path) -> None:
    marker, made = tmp_path / "unit.json", []

    def make() -> str:
        with pytest.raises(LockHeldError, match="unit 3"):
            once(marker, "unit 3", lambda: None, lambda: "other")
        made.append(1)
        return "made"

    assert once(marker, "unit 3", lambda: "made" if made else None, make) == "made"
    assert once(marker, "unit 3", lambda: "made" if made else None, make) == "made"
    assert len(made) == 1
    assert not list(tmp_path.iterdir()), "no lock remains"


def test_the_bytes_of_a_marker_are_unchanged(tmp_path: Path) -> None:
    mark(tmp_path / "m.json", Marker(digest="00", text="ü"))
    assert (tmp_path / "m.json").read_bytes() == '{\n "digest": "00",\n "text": "ü"\n}\n'.encode()


def test_a_marker_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"digest": "00", "text": "a", "later": 1}')
    with pytest.raises(FmctError, match="'later'"):
        marked(path, Marker)
    assert path.exists()


def test_an_unreadable_marker_does_not_count_as_missing(tmp_path: Path) -> None:
    assert marked(tmp_path / "none.json", Marker) is None
    (tmp_path / "m.json").mkdir()
    with pytest.raises(RefusedError):
        marked(tmp_path / "m.json", Marker)


class Enter(Protocol):
    def __call__(self, number: str = "12") -> Path: ...


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Sets the environment of the command of job 12, or another."""

    def enter(number: str = "12") -> Path:
        file = tmp_path / "out/slurm" / f"{number}.ledgers.json"
        monkeypatch.setenv(VARIABLE, str(file))
        return file

    return enter


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[Share, int]:
    """A kind of ledger, `toy`, with counts by share."""
    counts: dict[Share, int] = {}
    toy = SimpleNamespace(progress=lambda place, share: Progress(counts[share], unit="toy"))
    monkeypatch.setitem(sys.modules, "toy", toy)
    monkeypatch.setitem(LEDGERS, "toy", Kind("toy"))
    return counts


def test_nothing_is_registered_outside_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    register("toy", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_start_replaces_the_previous_one(tmp_path: Path, job: Enter, counted: dict[Share, int]) -> None:
    counted[Share(1, 2)] = 2
    file = job("12_1")
    register("toy", tmp_path, Share(1, 2), total=3, of_all=6, failed=1)
    assert progress_of_job(file.parent, "12_1") == (2, 3, 1, "toy")
    register("toy", tmp_path, Share(1, 2), total=3, of_all=6)
    assert progress_of_job(file.parent, "12_1") == (2, 3, 0, "toy")
    assert len(registered(file)) == 1


def test_an_output_folder_is_counted_by_the_ledgers_of_its_newest_jobs(
    tmp_path: Path, job: Enter, counted: dict[Share, int]
) -> None:
    out = tmp_path / "out"
    assert progress(out) is None
    for number, share, failed in (("9_0", (0, 2), 2), ("12_0", (0, 2), 1), ("12_1", (1, 2), 1)):
        job(number)
        register("toy", out, Share(*share), total=3, of_all=6, failed=failed)
        register("toy", tmp_path / "other", Share(*share), total=3, of_all=60, failed=3)
    counted[WHOLE] = 4
    assert progress(out) == (4, 6, 2, "toy")
    counted[WHOLE] = 5
    assert progress(out) == (5, 6, 1, "toy"), "at most as many failed as not done"


@pytest.mark.parametrize("text", ["", "{", '{"ledgers": [{"ledger": "../x", "place": "/"}]}', '{"later": 1}'])
def test_an_unreadable_registered_ledger_is_unknown(job: Enter, text: str) -> None:
    write_text(job(), text)
    assert progress_of_job(job().parent, "12") == Progress(None)


def test_ledgers_of_other_versions_or_without_a_count_are_unknown(
    tmp_path: Path, job: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    job()
    register("later", tmp_path, total=5)
    assert progress_of_job(job().parent, "12") == (None, 5, 0, "unit")

    def fails(place: Path, share: Share) -> Progress:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("launch.jobs.progress.counter", lambda ledger: fails)
    assert progress_of_job(job().parent, "12").done is None


def test_a_job_that_cannot_register_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file/12.ledgers.json"))
    register("toy", tmp_path)
    assert "cannot register the ledger of this job" in caplog.text


def test_every_kind_of_ledger_can_be_counted_in_an_empty_folder(tmp_path: Path) -> None:
    collected = {}
    for name in LEDGERS:
        count = counter(name)
        assert count is not None
        collected[name] = count(tmp_path, WHOLE)
    units = {name: one.unit for name, one in collected.items()}
    assert units == {
        **{"train": "step", "scan": "part", "preprocess": "task", "shards": "shard", "features": "volume"},
        **{"sweep": "unit", "predict": "prediction", "files": "unit"},
    }
    assert {one.done for one in collected.values()} <= {0, None}
    assert progress(tmp_path) is None


def test_the_file_of_a_job_names_folder_share_and_counts(tmp_path: Path, job: Enter) -> None:
    job()
    register("predict", tmp_path, Share(2, 8), total=3, of_all=20)
    [entry] = json.loads(job().read_text())["ledgers"]
    assert entry == {
        **{"ledger": "predict", "place": str(tmp_path), "share": [2, 8], "total": 3, "of_all": 20},
        "failed": 0,
    }
