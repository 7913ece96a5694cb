"""The accuracy of the detection of enhanced vessels: `python tests/bench/bench_vessels.py`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from markdown_table import heading, row
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))

from enhanced_heads import SPACING, scanned

from preprocess.anatomy.brain import coarse
from preprocess.anatomy.vessels import vessels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=int, default=200)
    parser.add_argument("--enhanced", type=int, default=60)
    options = parsed(parser, arguments, plain=1, enhanced=1)
    heading("heads", "of them", "with the sign", "length mm, least", "greatest", "CPU ms a head")
    for name, count in (("plain", options.plain), ("enhanced", options.enhanced)):
        lengths, seconds = [], 0.0
        for number in range(count):
            voxels = scanned(number, name == "enhanced")
            start = time.process_time()
            lengths.append(sum(vessels(voxels, SPACING, coarse(voxels, SPACING))))
            seconds += time.process_time() - start
        enhanced = sum(length > 0 for length in lengths)
        lowest, highest = f"{min(lengths):.0f}", f"{max(lengths):.0f}"
        row(name, count, enhanced, lowest, highest, f"{1000 * seconds / count:.0f}")


if __name__ == "__main__":
    main()
