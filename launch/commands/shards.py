"""`fmct shards`: inspect, verify, convert and split shard datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.commands.arguments import Overrides
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError
from shards.format_names import ShardFormat

if TYPE_CHECKING:
    from shards import Dataset, DatasetInfo

shards_app = typer.Typer(
    help="Inspect, verify, convert, merge and split shard datasets.", no_args_is_help=True
)

DatasetFolder = Annotated[Path, typer.Argument(help="Dataset folder, which contains dataset.json.")]
Out = Annotated[Path, typer.Option(help="New folder; an unfinished one is resumed by the same command.")]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes, each for one shard at a time.")]
ShardMib = Annotated[int, typer.Option(min=1, help="Maximum stored size of a shard in MiB.")]
Seed = Annotated[int, typer.Option(help="Random seed; the same seed gives the same selection.")]


@shards_app.command()
def info(dataset: DatasetFolder) -> None:
    """Show the contents of a dataset: volumes, shards, sizes, spacing, digests."""
    from shards import Dataset

    facts = [("dataset", str(dataset)), *_facts(Dataset.open(dataset, clipped=True))]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        echo(f"{name:<{width}}  {value}".replace("\n", " "))


def _facts(dataset: "Dataset") -> list[tuple[str, str]]:
    import numpy as np
    import pyarrow.compute as pc

    from shards.index import numbers

    info, index = dataset.info, dataset.index
    shapes = numbers(pc.list_flatten(index["shape"])).reshape(-1, 3).astype(np.int64)
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
        *(_of_a_copy(dataset, *info.clipped_hu) if info.clipped_hu else []),
        ("median shape", f"{median} (D × H × W)"),
        ("kernels", kernels),
        ("content digest", dataset.content_digest()),
        ("digest", info.digest),
        ("preprocessing", info.config_digest),
    ]


def _of_a_copy(dataset: "Dataset", low: int, high: int) -> list[tuple[str, str]]:
    return [("clipped to", f"{low} to {high} HU"), ("codec", dataset.codec(0))]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@shards_app.command()
def verify(dataset: DatasetFolder, workers: Workers = 1) -> None:
    """Read every byte of a dataset and verify it against the recorded digests."""
    from shards.verification import Unread, verify

    with progress("verify") as update:
        problems = verify(dataset, update, workers)
    damage = []
    for what, some in (
        ("damaged", [problem for problem in problems if not isinstance(problem, Unread)]),
        ("unreadable", [problem for problem in problems if isinstance(problem, Unread)]),
    ):
        if some:
            damage.append(f"{len(some)} {what}: " + "; ".join(map(str, some)))
    if damage:
        raise FmctError(f"{dataset}: " + "; ".join(damage))
    echo(f"{dataset}: verified, all digests match")


@shards_app.command()
def convert(
    dataset: DatasetFolder,
    out: Out,
    to: Annotated[ShardFormat, typer.Option(help="Format to convert to.")],
    workers: Workers = 1,
) -> None:
    """Convert a dataset to another format without loss; converting back gives the same bytes."""
    from shards.derive import convert

    with progress("convert") as update:
        _print_summary(out, convert(dataset, out, to, workers, update))


@shards_app.command()
def merge(
    datasets: Annotated[list[Path], typer.Argument(help="Dataset folders, which contain dataset.json.")],
    out: Out,
) -> None:
    """Merge datasets with the same configuration; files are hard-linked if possible, otherwise copied."""
    from shards.merge import merge

    with progress("merge") as update:
        _print_summary(out, merge(datasets, out, update))


@shards_app.command()
def split(
    dataset: DatasetFolder,
    out: Out,
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART=FRACTION]...", help="For example train=0.7 validation=0.1 test=0.2."),
    ] = None,
    ood: Annotated[
        Path | None,
        typer.Option(help="Parquet file of study_key and a name: patients of a test set ood:NAME."),
    ] = None,
    seed: Seed = 0,
    shard_mib: ShardMib = 1024,
    workers: Workers = 1,
) -> None:
    """Split a dataset by patient into one dataset per part; without parts, only change the shard size.

    OUT/parts.parquet has the part of each patient, for `fmct probe`, `fmct sweep` and `fmct labels`.
    """
    from shards.split import folder_of, reshard, split

    with progress("split") as update:
        if not parts:
            if ood:
                raise FmctError("--ood: name the parts of the other patients too, such as train=0.7 test=0.3")
            _print_summary(out, reshard(dataset, out, shard_mib * 2**20, workers, update))
            return
        fractions = _fractions(parts)
        made = split(dataset, out, fractions, seed, shard_mib * 2**20, workers, update, ood)
    for name, of_part in made.items():
        _print_summary(out / folder_of(name), of_part)


def _fractions(parts: list[str]) -> dict[str, float]:
    fractions: dict[str, float] = {}
    for part in parts:
        name, _, fraction = part.partition("=")
        try:
            fractions[name] = float(fraction)
        except ValueError:
            raise FmctError(f"{part}: expected PART=FRACTION, for example train=0.8") from None
        if not name.isidentifier():
            raise FmctError(f"{part}: a part's name may contain only letters, digits and _")
    if len(fractions) < len(parts):
        raise FmctError(f"{' '.join(parts)}: a part is given twice")
    return fractions


@shards_app.command()
def sample(
    dataset: DatasetFolder,
    out: Out,
    volumes: Annotated[int, typer.Option(min=1, help="Number of volumes to draw.")],
    seed: Seed = 0,
    shard_mib: ShardMib = 1024,
    workers: Workers = 1,
) -> None:
    """Create a small dataset of randomly drawn volumes, for experiments."""
    from shards.split import sample

    with progress("sample") as update:
        _print_summary(out, sample(dataset, out, volumes, seed, shard_mib * 2**20, workers, update))


@shards_app.command()
def derive(
    dataset: DatasetFolder,
    out: Out,
    for_training: Annotated[
        Path, typer.Option(help="Recipe of `fmct train`; voxels are clipped to the HU range of its views.")
    ],
    codec: Annotated[
        Literal["zstd", "lz4"],
        typer.Option(help="zstd: fewest bytes. lz4: a sixth more, and reading takes half the CPU time."),
    ] = "zstd",
    workers: Workers = 1,
    overrides: Overrides = None,
) -> None:
    """Make a smaller copy for training, with voxels clipped to the HU range of a recipe.

    It has about a third fewer bytes and gives the same views. Only `fmct train` reads it, and only with
    recipes whose windows need no wider range.
    """
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.data.hu_range import needed_hu
    from launch.config import load
    from shards.clipped import clip

    recipe = load(TrainConfig, for_training, [*(overrides or []), f"data.path={dataset}"])
    bounds = needed_hu(recipe.data)
    with progress("derive") as update:
        _print_summary(out, clip(dataset, out, bounds, workers, update, codec))
    echo(f"{out}: clipped to {bounds[0]} to {bounds[1]} HU, for training only")


@shards_app.command()
def dump(
    dataset: DatasetFolder,
    key: Annotated[str, typer.Argument(help="Key of the volume.")],
    out: Annotated[Path, typer.Argument(help="File to write: .nii.gz, .nii or .npy.")],
) -> None:
    """Write one volume as a NIfTI or NumPy file, for example for a viewer."""
    from shards.dump import dump

    dump(dataset, key, out)
    echo(f"{out}: volume {key}")


def _print_summary(out: Path, info: "DatasetInfo") -> None:
    echo(f"{out}: {info.volumes} volumes in {len(info.shards)} {info.format} shards, {_mib(info.bytes)}")
