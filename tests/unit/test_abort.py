"""If one rank fails, all ranks end, with its exit code and only its message."""

import os
import subprocess
from pathlib import Path

import pytest
from forked_commands import forked_python

from launch.ranks import free_port

RANK = """
import os, sys, time
import torch.distributed as dist
from fmct_hpc.train import abort
from fmct_hpc.train.process_group import RankInfo
from shards.errors import LostProcessError

rank_info = RankInfo(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), 0, None)
dist.init_process_group("gloo", rank=rank_info.rank, world_size=rank_info.world_size)
abort.FOLLOW_SECONDS = 1.0
try:
    with abort.AbortFlag("test", rank_info, lambda error: print("noted", error, flush=True)) as flag:
        dist.barrier()
        try:
            {train}
        except Exception as error:
            flag.fail(error)
            raise
except LostProcessError as error:
    print("fmct:", error, file=sys.stderr, flush=True)
    os._exit(error.exit_code)
except SystemExit as ended:
    os._exit(ended.code)
os._exit(0)
"""

LOST = 'LostProcessError("a reader")'


def run(tmp_path: Path, train: str, ranks: int) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each rank."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.replace("{train}", train.replace("\n", "\n            ")))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    shared["OMP_NUM_THREADS"] = "1"
    processes = [
        subprocess.Popen(
            [*forked_python(), str(script)],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, outputs, strict=True)]


@pytest.mark.parametrize(
    ("first", "stands"), [(0, "time.sleep(600)"), (1, "dist.barrier()")], ids=["elsewhere", "in gloo"]
)
def test_all_ranks_end_with_the_message_of_the_failed_rank(tmp_path: Path, first: int, stands: str) -> None:
    train = f"if rank_info.rank == {first}: raise {LOST}\n{stands}"
    ranks = run(tmp_path, train, 3)
    assert [code for code, *_ in ranks] == [71, 71, 71], ranks
    assert [err.count("a reader") for *_, err in ranks] == [rank == first for rank in range(3)]
    assert not any("Traceback" in err for *_, err in ranks)
    assert "noted a reader" in ranks[first][1]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_lost_process_unnoticed_by_the_training_ends_it(tmp_path: Path, ranks: int) -> None:
    lost = f"if rank_info.rank == 0: flag.lost = lambda: {LOST}\n"
    last = "flag.last = lambda: print('saved', flush=True)\n"
    ended = run(tmp_path, lost + last + "time.sleep(600)", ranks)
    assert [(code, err) for code, _, err in ended] == [
        (71, "fmct: a reader\n" if rank == 0 else "") for rank in range(ranks)
    ]
    assert ended[0][1] == "noted a reader\nsaved\n"


def test_a_rank_that_is_killed_ends_the_others_and_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    killed, other = run(tmp_path, "if rank_info.rank == 0: os.kill(os.getpid(), 9)\ndist.barrier()", 2)
    assert (killed[0], other[0]) == (128 + 9, 1)
    assert "RuntimeError" in other[2]


def test_ranks_that_succeed_do_not_wait(tmp_path: Path) -> None:
    ended = run(tmp_path, "if rank_info.rank == 1: time.sleep(2)", 2)
    assert ended == [(0, "", ""), (0, "", "")]
