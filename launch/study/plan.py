"""Which cells a study has."""

from launch.study.cells import Cell
from launch.study.config import StudyConfig


def all_cells(config: StudyConfig) -> list[Cell]:
    """Every cell of the study."""
    return [cell for seed in config.seeds for cells in plan(config, seed) for cell in cells]


def plan(config: StudyConfig, seed: int) -> list[list[Cell]]:
    """The cells of a seed, those of one encoder together: baselines, scratch, then the objectives."""
    largest, at = max(config.sizes), config.compared_fraction
    groups = [[Cell(arm, "frozen", 0, f, seed) for f in config.fractions] for arm in ("mean", "thumbnail")]
    groups.append([Cell("untrained", "frozen", 0, f, seed) for f in config.fractions])
    groups[-1] += [Cell("scratch", "finetune", 0, f, seed) for f in config.fractions]
    for size in sorted(config.sizes, reverse=True):
        fractions = config.fractions if size == largest else (at,)
        for objective in config.objectives:
            frozen = [Cell(objective, "frozen", size, f, seed) for f in fractions]
            groups.append(frozen + [Cell(objective, "finetune", size, f, seed) for f in fractions])
    return groups
