"""The commands for setting up: `fmct doctor` and `fmct recipes`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.screen import echo

if TYPE_CHECKING:
    from launch.doctor.finding import Finding


def doctor(
    site: Annotated[
        Path | None, typer.Option(exists=True, help="Also check a site file against this cluster.")
    ] = None,
    data: Annotated[Path | None, typer.Option(exists=True, help="Also check a shard dataset.")] = None,
    run: Annotated[Path | None, typer.Option(exists=True, help="Also check a run folder.")] = None,
    secret: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, help="Also check that only you can read a key file or catalog. Repeatable."
        ),
    ] = None,
) -> None:
    """Check the installation, and optionally a site file, a dataset or a run; suggest fixes.

    The exit code is 1 if a fault was found, otherwise 0.
    """
    from launch.doctor.dataset import check_dataset
    from launch.doctor.finding import run_check, show
    from launch.doctor.installation import check_installation
    from launch.doctor.run_folder import check_run
    from launch.doctor.shared import is_secret

    sections: list[tuple[str, Iterable[Finding]]] = [("installation", check_installation())]
    if site:
        from launch.doctor.site import check_site  # needs the layer [slurm]

        sections.append((f"site {site}", check_site(site)))
    if data:
        sections.append((f"dataset {data}", check_dataset(data)))
    if run:
        sections.append((f"run {run}", check_run(run)))
    if secret:
        secrets = (run_check(file.name, partial(is_secret, file)) for file in secret)
        sections.append(("secrets", secrets))
    faults = show(sections)
    echo(f"{faults} {'fault' if faults == 1 else 'faults'} found" if faults else "no faults found")
    raise typer.Exit(1 if faults else 0)


def recipes(
    folder: Annotated[
        Path, typer.Argument(help="Folder to create launch/recipes and launch/sbatch in.")
    ] = Path("."),
) -> None:
    """Copy the packaged recipes, example site file and sbatch files to a folder.

    Existing files are not overwritten.
    """
    from launch.bundled import copy_bundled

    for path in copy_bundled(folder):
        echo(path)
