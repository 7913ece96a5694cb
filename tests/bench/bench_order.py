"""The order of samples and its cost for the storage, simulated: `python tests/bench/bench_order.py`.

361,663 volumes of about 7 MB in shards of about 2 GB, nodes of 8 ranks, one epoch. The order by
lanes is compared with a plain permutation of all volumes. A node's LRU cache holds a tenth of the shards; a
hit is a volume whose shard is in it.
"""

import argparse
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from markdown_table import heading, row
from tiny import parsed

from fmct_hpc.data.order import Order

VOLUMES_A_SHARD = 290.5
RANKS_A_NODE = 8


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--volumes", type=int, default=361_663)
    volumes = parsed(parser, arguments, volumes=60_000).volumes
    random = np.random.default_rng(0)
    shards = random.integers(240, 340, round(volumes / VOLUMES_A_SHARD))
    more, rest = divmod(volumes - int(shards.sum()), len(shards))
    shards += more
    shards[:rest] += 1
    shard_of = np.repeat(np.arange(len(shards)), shards)
    size = random.lognormal(0, 0.3, volumes) * random.normal(7e6, 7e5, len(shards))[shard_of]
    print(f"{len(shards)} shards")
    shown = ("batch", "ranks", "order", "shards fetched by nodes", "of all", "used by a node in 50 steps")
    heading(*shown, "behind one batch", "hits of a node's cache", "bytes a rank, greatest to mean")
    for batch, ranks in ((256, 64), (1024, 1024), (1024, 64), (32, 8)):
        positions = np.arange(volumes)
        lanes = Order(0, tuple(shards.tolist()), batch).at(positions)[1]
        for name, indices in (("lanes", lanes), ("plain", random.permutation(volumes))):
            rank = positions % batch * ranks // batch
            row(batch, ranks, name, *figures(shard_of[indices], size[indices], rank, batch, len(shards)))


def figures(shard: np.ndarray, size: np.ndarray, rank: np.ndarray, batch: int, shards: int) -> list[str]:
    """Print one row; arrays (volumes,) in the order of the epoch."""
    node = rank // RANKS_A_NODE
    fetched = len(np.unique(node * shards + shard))
    starts = range(0, len(shard) - 50 * batch, max(1, len(shard) // batch // 10) * batch)
    steps = [slice(first, first + 50 * batch) for first in starts]
    live = np.mean([len(np.unique(shard[s][node[s] == 0])) for s in steps])
    behind = np.mean([len(np.unique(shard[s.start : s.start + batch])) for s in steps])
    read = np.bincount(rank, size)
    hits = hit_rate(shard[node == 0], shards // 10)
    return [
        *(f"{fetched}", f"{fetched / shards:.1f}", f"{live:.0f}", f"{behind:.0f}"),
        *(f"{hits:.1%}", f"{read.max() / read.mean():.2f}"),
    ]


def hit_rate(used: np.ndarray, capacity: int) -> float:
    """Share of uses that find their shard in a least-recently-used cache of `capacity` shards."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for shard in used.tolist():
        if shard in cache:
            hits += 1
            cache.move_to_end(shard)
            continue
        cache[shard] = None
        if len(cache) > capacity:
            cache.popitem(last=False)
    return hits / len(used)


if __name__ == "__main__":
    main()
