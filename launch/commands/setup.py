"""What is run before any stage: `fmct doctor` and `fmct recipes`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.screen import echo

if TYPE_CHECKING:
    from launch.doctor.finding import Finding


def doctor(
    site: Annotated[Path | None, typer.Option(exists=True, help="A site file to check here too.")] = None,
    data: Annotated[Path | None, typer.Option(exists=True, help="A shard dataset.")] = None,
    run: Annotated[Path | None, typer.Option(exists=True, help="A run folder.")] = None,
    secret: Annotated[
        list[Path] | None, typer.Option(exists=True, help="A key file or catalog: yours alone? Repeatable.")
    ] = None,
) -> None:
    """Check this installation, and a site, a dataset, a run: what is wrong, and how to mend it.

    Exit code 0 where nothing is, 1 where something will fail.
    """
    from launch.doctor.dataset import look_at_dataset
    from launch.doctor.finding import looked, show
    from launch.doctor.installation import look_at_installation
    from launch.doctor.run_folder import look_at_run
    from launch.doctor.shared import is_secret

    sections: list[tuple[str, Iterable[Finding]]] = [("installation", look_at_installation())]
    if site:
        from launch.doctor.site import look_at_site  # which needs the layer of Slurm

        sections.append((f"site {site}", look_at_site(site)))
    if data:
        sections.append((f"dataset {data}", look_at_dataset(data)))
    if run:
        sections.append((f"run {run}", look_at_run(run)))
    if secret:
        found = (looked(file.name, partial(is_secret, file)) for file in secret)
        sections.append(("secrets", found))
    faults = show(sections)
    echo(f"{faults} to mend" if faults else "nothing to mend")
    raise typer.Exit(1 if faults else 0)


def recipes(
    folder: Annotated[Path, typer.Argument(help="Gets launch/recipes and launch/sbatch.")] = Path("."),
) -> None:
    """Copy the recipes, an example of a site file, and the sbatch files out of the installed package.

    Files that are there already stay as they are.
    """
    from launch.bundled import copy_bundled

    for path in copy_bundled(folder):
        echo(path)
