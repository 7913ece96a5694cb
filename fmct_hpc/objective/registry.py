"""The parts of the objective. A new part is a file in this folder, and its lines here."""

from fmct_hpc.objective.config import WeightsConfig
from fmct_hpc.objective.dino import Dino, DinoKeys
from fmct_hpc.objective.gram import Gram, GramKeys
from fmct_hpc.objective.ibot import Ibot, IbotKeys
from fmct_hpc.objective.koleo import Koleo, KoleoKeys
from fmct_hpc.objective.lejepa import Lejepa, LejepaKeys
from fmct_hpc.objective.mae import Mae, MaeKeys
from fmct_hpc.objective.part import Part

PARTS: tuple[type[Part], ...] = (Dino, Ibot, Koleo, Mae, Gram, Lejepa)
"""In the order in which they are built (so initialised from the seed), summed and shown."""


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
