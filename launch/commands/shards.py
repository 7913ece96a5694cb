"""`fmct shards`: look at datasets, check them, and make others from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.commands.arguments import Overrides
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError

if TYPE_CHECKING:
    from shards import Dataset, DatasetInfo

shards_app = typer.Typer(
    help="Look at shard datasets, check them, and make others from them.", no_args_is_help=True
)

DatasetFolder = Annotated[Path, typer.Argument(help="Folder that holds dataset.json.")]
Out = Annotated[Path, typer.Option(help="New folder; the same command goes on with an unfinished one.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes, a shard each at a time.")]
ShardMib = Annotated[int, typer.Option(min=1, help="Most stored MiB of a shard.")]
Seed = Annotated[int, typer.Option(help="Same seed, same choice.")]


@shards_app.command()
def info(dataset: DatasetFolder) -> None:
    """Say what a dataset holds."""
    from rich.console import Console

    from launch.tables import PlainTable
    from shards import Dataset

    table = PlainTable.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")  # a digest stays whole in 80 columns
    for name, value in [("dataset", str(dataset)), *_facts(Dataset.open(dataset, clipped=True))]:
        table.add_row(name, value)
    Console(highlight=False).print(table)


def _facts(dataset: "Dataset") -> list[tuple[str, str]]:
    import numpy as np
    import pyarrow.compute as pc

    info, index = dataset.info, dataset.index
    shapes = pc.list_flatten(index["shape"]).to_numpy().reshape(-1, 3).astype(np.int64)
    raw = int(shapes.prod(axis=1).sum()) * 2
    sizes = [shard.bytes for shard in info.shards]
    median = " × ".join(f"{side:.0f}" for side in np.median(shapes, axis=0))
    spacing = " × ".join(f"{side:g}" for side in info.spacing_mm)
    kernels = ", ".join(
        f"{pair['counts']} {pair['values']}" for pair in index["kernel_class"].value_counts().to_pylist()
    )
    return [
        ("format", f"{info.format} version {info.format_version}"),
        ("volumes", str(info.volumes)),
        ("patients", str(pc.count_distinct(index["patient_key"]).as_py())),
        ("studies", str(pc.count_distinct(index["study_key"]).as_py())),
        ("shards", f"{len(sizes)}, {_mib(min(sizes))} to {_mib(max(sizes))}"),
        ("stored", f"{_mib(info.bytes)}, ratio {raw / info.bytes:.2f}"),
        ("spacing", f"{spacing} mm (D × H × W)"),
        *([("clipped to", f"{info.clipped_hu[0]} to {info.clipped_hu[1]} HU")] if info.clipped_hu else []),
        ("median shape", f"{median} (D × H × W)"),
        ("kernels", kernels),
        ("content digest", dataset.content_digest()),
        ("digest", info.digest),
        ("preprocessing", info.config_digest),
    ]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@shards_app.command()
def verify(dataset: DatasetFolder, workers: Workers = 1) -> None:
    """Read every byte of a dataset and check it against its digests."""
    from shards.verification import Unread, verify

    with progress("verify") as update:
        problems = verify(dataset, update, workers)
    said = []
    for what, some in (
        ("damaged", [problem for problem in problems if not isinstance(problem, Unread)]),
        ("could not be read", [problem for problem in problems if isinstance(problem, Unread)]),
    ):
        if some:
            said.append(f"{len(some)} {what}: " + "; ".join(map(str, some)))
    if said:
        raise FmctError(f"{dataset}: " + "; ".join(said))
    echo(f"{dataset}: every byte as written")


@shards_app.command()
def convert(
    dataset: DatasetFolder,
    out: Out,
    to: Annotated[Literal["zarr", "webdataset"], typer.Option(help="The other format.")],
    workers: Workers = 1,
) -> None:
    """Store the same volumes in the other format: nothing is lost, and back again gives the same bytes."""
    from shards.derive import convert

    with progress("convert") as update:
        _say(out, convert(dataset, out, to, workers, update))


@shards_app.command()
def merge(
    datasets: Annotated[list[Path], typer.Argument(help="Folders that hold dataset.json.")], out: Out
) -> None:
    """Join datasets of one configuration; files are linked, not copied, where the file system can."""
    from shards.merge import merge

    with progress("merge") as update:
        _say(out, merge(datasets, out, update))


@shards_app.command()
def split(
    dataset: DatasetFolder,
    out: Out,
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART=FRACTION]...", help="Such as train=0.7 validation=0.1 test=0.2."),
    ] = None,
    seed: Seed = 0,
    shard_mib: ShardMib = 1024,
    workers: Workers = 1,
) -> None:
    """Divide a dataset by patients into a folder a part; without parts, only cut its shards to a size.

    OUT/parts.parquet says who is in which, for `fmct probe`, `fmct sweep` and `fmct labels`.
    """
    from shards.split import reshard, split

    with progress("split") as update:
        if not parts:
            _say(out, reshard(dataset, out, shard_mib * 2**20, workers, update))
            return
        fractions = _fractions(parts)
        made = split(dataset, out, fractions, seed, shard_mib * 2**20, workers, update)
    for name, of_part in made.items():
        _say(out / name, of_part)


def _fractions(parts: list[str]) -> dict[str, float]:
    fractions: dict[str, float] = {}
    for part in parts:
        name, _, fraction = part.partition("=")
        try:
            fractions[name] = float(fraction)
        except ValueError:
            raise FmctError(f"{part}: expected PART=FRACTION, such as train=0.8") from None
        if not name.isidentifier():
            raise FmctError(f"{part}: the name of a part is letters, digits and _")
    if len(fractions) < len(parts):
        raise FmctError(f"{' '.join(parts)}: a part is named twice")
    return fractions


@shards_app.command()
def sample(
    dataset: DatasetFolder,
    out: Out,
    volumes: Annotated[int, typer.Option(min=1, help="Volumes to draw.")],
    seed: Seed = 0,
    shard_mib: ShardMib = 1024,
    workers: Workers = 1,
) -> None:
    """Draw volumes into a small dataset of its own, to try things on."""
    from shards.split import sample

    with progress("sample") as update:
        _say(out, sample(dataset, out, volumes, seed, shard_mib * 2**20, workers, update))


@shards_app.command()
def derive(
    dataset: DatasetFolder,
    out: Out,
    for_training: Annotated[
        Path, typer.Option(help="Recipe of `fmct train`: voxels are clipped to the HU that its views need.")
    ],
    workers: Workers = 1,
    overrides: Overrides = None,
) -> None:
    """Make a copy for training alone, of a third fewer bytes, whose views are those of the dataset.

    Nothing but `fmct train` reads it as volumes; a recipe whose windows need more is refused.
    """
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.data.needed import needed_hu
    from launch.config import load
    from shards.clipped import clip

    recipe = load(TrainConfig, for_training, [*(overrides or []), f"data.path={dataset}"])
    bounds = needed_hu(recipe.data)
    with progress("derive") as update:
        _say(out, clip(dataset, out, bounds, workers, update))
    echo(f"{out}: clipped to {bounds[0]} to {bounds[1]} HU, for training alone")


@shards_app.command()
def dump(
    dataset: DatasetFolder,
    key: Annotated[str, typer.Argument(help="The volume's key.")],
    out: Annotated[Path, typer.Argument(help="File to write: .nii.gz, .nii or .npy.")],
) -> None:
    """Write one volume as NIfTI or NumPy, to look at it in a viewer."""
    from shards.dump import dump

    dump(dataset, key, out)
    echo(f"{out}: volume {key}")


def _say(out: Path, info: "DatasetInfo") -> None:
    echo(f"{out}: {info.volumes} volumes in {len(info.shards)} {info.format} shards, {_mib(info.bytes)}")
