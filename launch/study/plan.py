"""The cells of a study, grouped by encoder."""

from dataclasses import dataclass

from launch.study.cells import Cell, Method
from launch.study.config import StudyConfig


@dataclass(frozen=True)
class Group:
    """The cells of one encoder or baseline, which one process computes independently of the others."""

    name: str
    arm: str
    """The arm of its cells, except that `scratch` cells belong to the arm `untrained`."""
    size: int
    """Number of heads in pretraining; 0: no pretraining."""
    number: int
    """Number of the pretraining, or the seed of random weights."""
    cells: list[Cell]


def all_cells(config: StudyConfig) -> list[Cell]:
    """Every cell of the study."""
    return [cell for group in plan(config) for cell in group.cells]


def plan(config: StudyConfig) -> list[Group]:
    """The groups of a study, longest first: pretrained encoders by decreasing size, then the others."""
    largest, compared = max(config.sizes), (config.compared_fraction,)
    groups = []
    for size in sorted(config.sizes, reverse=True):
        fractions = config.fractions if size == largest else compared
        for arm, objective in config.objectives.items():
            seeds_drawn = config.seeds[: objective.draws]
            for number in range(min(objective.pretrainings, len(seeds_drawn))):
                seeds = seeds_drawn[number :: objective.pretrainings]
                cells = _cells(arm, "frozen", size, fractions, seeds)
                cells += _cells(arm, "finetune", size, fractions, seeds)
                groups.append(Group(f"{arm}-{size}-{number}", arm, size, number, cells))
    for seed in config.seeds:
        cells = _cells("untrained", "frozen", 0, config.fractions, (seed,))
        cells += _cells("scratch", "finetune", 0, config.fractions, (seed,))
        groups.append(Group(f"untrained-{seed}", "untrained", 0, seed, cells))
    for arm in ("mean", "thumbnail"):
        groups.append(Group(arm, arm, 0, 0, _cells(arm, "frozen", 0, config.fractions, config.seeds)))
    return groups


def _cells(
    arm: str, method: Method, size: int, fractions: tuple[float, ...], seeds: tuple[int, ...]
) -> list[Cell]:
    return [Cell(arm, method, size, fraction, seed) for seed in seeds for fraction in fractions]
