"""The common command line of all benchmarks: sizes are options, and `--tiny` sets the smallest."""

import argparse
from collections.abc import Sequence


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **tiny: object
) -> argparse.Namespace:
    """The options of `arguments` (None: of this process), with `tiny` as their defaults under `--tiny`.

    At those sizes a benchmark takes seconds and only tests that it runs; its figures are meaningless.
    """
    parser.add_argument("--tiny", action="store_true", help="sizes at which it is only seen to run")
    if parser.parse_known_args(arguments)[0].tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(arguments)
