"""The parts that an objective can have. A new one is a file of this folder, and its lines here."""

from fmct_hpc.objective.config import WeightsConfig
from fmct_hpc.objective.dino import Dino, DinoKeys
from fmct_hpc.objective.gram import Gram, GramKeys
from fmct_hpc.objective.ibot import Ibot, IbotKeys
from fmct_hpc.objective.koleo import Koleo, KoleoKeys
from fmct_hpc.objective.lejepa import Lejepa, LejepaKeys
from fmct_hpc.objective.mae import Mae, MaeKeys
from fmct_hpc.objective.part import Part

PARTS: tuple[type[Part], ...] = (Dino, Ibot, Koleo, Mae, Gram, Lejepa)
"""In the order in which they are built, and so drawn from the seed, summed and shown."""


class ObjectiveConfig(
    DinoKeys,
    IbotKeys,
    KoleoKeys,
    MaeKeys,
    GramKeys,
    LejepaKeys,
    WeightsConfig,
):
    """L = Σ weight · L over the parts; a weight of 0 builds nothing of that part."""

    kinds = PARTS
