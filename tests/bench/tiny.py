"""The command line that all benchmarks share: sizes are options, and `--tiny` is the least of them."""

import argparse
from collections.abc import Sequence


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **tiny: object
) -> argparse.Namespace:
    """The options of `arguments` (None: of this process), with `tiny` as their defaults under `--tiny`.

    At those sizes a benchmark shows that it runs, within seconds; its figures mean nothing.
    """
    parser.add_argument("--tiny", action="store_true", help="sizes at which it is only seen to run")
    if parser.parse_known_args(arguments)[0].tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(arguments)
