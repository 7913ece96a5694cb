"""The files that come with the package and that users copy and edit."""

from collections.abc import Iterator
from pathlib import Path

from shards.atomic import write_bytes

BUNDLED = ("recipes/*.yaml", "sbatch/*.sbatch")


def copy_bundled(folder: Path) -> Iterator[Path]:
    """Copy recipes and sbatch files to `folder`/launch; yields what was written, leaves what was there."""
    source = Path(__file__).parent
    for pattern in BUNDLED:
        for file in sorted(source.glob(pattern)):
            copy = folder / "launch" / file.relative_to(source)
            if not copy.exists():
                write_bytes(copy, file.read_bytes())
                yield copy
