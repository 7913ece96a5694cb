"""Files of the package that users copy and edit."""

from collections.abc import Iterator
from pathlib import Path

from shards.atomic import write_bytes
from shards.errors import FmctError

BUNDLED = ("recipes/*.yaml", "sbatch/*.sbatch")


def recipe(name: str) -> Path:
    """A recipe's file in the installed package; FmctError that lists the recipes if there is none."""
    folder = Path(__file__).parent / "recipes"
    names = sorted(file.name for file in folder.glob("*.yaml"))
    if name not in names:
        raise FmctError(f"no recipe {name}: recipes are {', '.join(names)}")
    return folder / name


def copy_bundled(folder: Path) -> Iterator[Path]:
    """Copy recipes and sbatch files to `folder`/launch without overwriting; yields the files written."""
    source = Path(__file__).parent
    for pattern in BUNDLED:
        for file in sorted(source.glob(pattern)):
            copy = folder / "launch" / file.relative_to(source)
            if not copy.exists():
                write_bytes(copy, file.read_bytes())
                yield copy
