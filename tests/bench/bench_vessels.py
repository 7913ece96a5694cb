"""How often the sign of enhanced vessels is right: `python tests/bench/bench_vessels.py`."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from enhanced_heads import SPACING, scanned

from preprocess.anatomy.brain import coarse
from preprocess.anatomy.vessels import vessels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=int, default=200)
    parser.add_argument("--enhanced", type=int, default=60)
    arguments = parser.parse_args()
    seconds = 0.0
    for name, count in (("plain", arguments.plain), ("enhanced", arguments.enhanced)):
        lengths = []
        for number in range(count):
            voxels = scanned(number, name == "enhanced")
            start = time.process_time()
            lengths.append(sum(vessels(voxels, SPACING, coarse(voxels, SPACING))))
            seconds += time.process_time() - start
        found = sum(length > 0 for length in lengths)
        print(
            f"{found} of {count} {name} heads; lengths in mm: {min(lengths):.0f} to {max(lengths):.0f}",
            flush=True,
        )
    print(f"{seconds / (arguments.plain + arguments.enhanced) * 1000:.0f} CPU ms a head")


if __name__ == "__main__":
    main()
