"""The loader from shards, compared with another version of this code and the reference's cached files.

    git worktree add /tmp/other 872b9ad
    OMP_NUM_THREADS=1 python tests/bench/bench_loader.py --against /tmp/other --reference

CPU ms per volume for 2 global and 2 local views of 96³ (the reference's recipe) of one real head of
176×220×220 (`bench_shards.head`), from its shard and from training copies with either codec. Each row runs
in a separate process, interleaved, with the same volumes in each round. The ratio to the first row
is the median over the rounds. --reference: MONAI's chain from its cached file (the extra `test`). The
run fails unless the views of all rows are equal.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_shards import head
from markdown_table import heading, row
from shard_samples import make_key, make_record
from tiny import parsed

from shards import ShardWriter, finish_dataset
from shards.clipped import clip
from shards.format_names import Codec

HERE = Path(__file__).parent
CODECS: tuple[Codec, ...] = ("zstd", "lz4")
TREE = HERE.parents[1]
CLIPPED_HU = (-800, 2000)
"""The union of the default windows."""
REFERENCE_VOLUMES = 3
"""Of the reference, in a round: it takes twenty times as long."""


class Side:
    """The process of one row, which makes views."""

    def __init__(self, tree: Path, dataset: Path, keys: dict[str, object]) -> None:
        command = [sys.executable, str(HERE / "loader_side.py"), str(tree), str(dataset), json.dumps(keys)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tree)

    def seconds(self, steps: int, check: bool) -> tuple[float, int]:
        """CPU seconds per volume and, if `check`, the CRC-32 of the views."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{json.dumps([steps, check])}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["views"]

    def close(self) -> None:
        self._process.communicate()


def rows(folder: Path, against: Path | None, shape: list[int]) -> dict[str, tuple[Path, Path]]:
    """Tree and dataset of every row; writes the datasets."""
    volume = head(shape)
    with ShardWriter(folder / "archive", "shard", "zarr") as shard:
        shard.add(make_record(volume, make_key(0)), volume)
    finish_dataset(folder / "archive", "zarr", ["shard"])
    for codec in CODECS:
        clip(folder / "archive", folder / codec, CLIPPED_HU, codec=codec)
    made = {"other, archive": (against.resolve(), folder / "archive")} if against else {}
    return made | {f"this, {name}": (TREE, folder / name) for name in ("archive", *CODECS)}


def cached_reference(folder: Path) -> Callable[[], object]:
    """A volume's views by MONAI, from the float16 field in the cache file of its PersistentDataset."""
    import torch  # with MONAI, for this row alone
    from bench_views import reference, windowed_field

    from fmct_hpc.data.config import DataConfig

    torch.set_num_threads(1)
    data = DataConfig(path=folder)
    chain, file = reference(data), folder / "cached.pt"
    torch.save(windowed_field(head(), data), file)
    return lambda: chain(torch.load(file).numpy())


def table(seconds: dict[str, list[float]]) -> None:
    """One row each, and the ratios of rows in the same round."""
    names = list(seconds)
    reference = ["reference"] if "reference" in names else []
    heads = [f"of {name}" for name in [names[0], *reference]]
    heading("loader", "CPU ms, least", *heads)
    for name, own in seconds.items():
        ratios = [
            median(a / b for a, b in zip(seconds[other], own, strict=True))
            for other in (names[0], *reference)
        ]
        row(name, f"{1000 * min(own):.1f}", *(f"{ratio:.2f}" for ratio in ratios))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="the other version's folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="of 4 volumes, in a round")
    parser.add_argument("--view-size", type=int, default=96)
    parser.add_argument("--shape", type=int, nargs=3, default=[176, 220, 220])
    parser.add_argument("--reference", action="store_true", help="also MONAI from its cached file")
    small = {"rounds": 1, "steps": 1, "view_size": 8, "shape": [40, 40, 40]}
    options = parsed(parser, arguments, **small)
    with tempfile.TemporaryDirectory() as folder:
        made = rows(Path(folder), options.against, options.shape)
        size = {"view_size": options.view_size}
        sides = {name: Side(tree, dataset, size) for name, (tree, dataset) in made.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        reference = cached_reference(Path(folder)) if options.reference else None
        if reference:
            seconds["reference"] = []
        views = set()
        for number in range(options.rounds + 1):
            for name, side in sides.items():
                took, seen = side.seconds(options.steps, check=not number)
                if number:
                    seconds[name].append(took)
                else:  # the first compiles, and takes its memory
                    views.add(seen)
            if reference and number:
                began = time.process_time()
                for _ in range(REFERENCE_VOLUMES):
                    reference()
                seconds["reference"].append((time.process_time() - began) / REFERENCE_VOLUMES)
        for side in sides.values():
            side.close()
    if len(views) != 1:
        sys.exit("the rows' views differ")
    table(seconds)


if __name__ == "__main__":
    main()
