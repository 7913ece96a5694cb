"""The report's sections on intended use, out-of-scope use and limits."""

from fmct_hpc.hub.card import FOR as TO_RESEARCH
from fmct_hpc.hub.card import NOT_FOR
from launch.report.data import Data
from launch.report.document import Bullets, Section
from launch.report.probe import Probes
from launch.report.training import Training

FOR = (
    TO_RESEARCH,
    "Input with the same preprocessing as the encoder's training data; its digest is listed under "
    "Provenance, and the probes reject any other.",
)


def use() -> list[Section]:
    """Intended and out-of-scope use."""
    return [Section("Intended use", (Bullets(FOR),)), Section("Out of scope", (Bullets(NOT_FOR),))]


def limits(training: Training, data: Data | None, probes: Probes | None) -> Section:
    """The limits of this data, run and results."""
    items: list[str] = []
    if training.steps < training.config.run.steps:
        items.append(f"The run is at step {training.steps:,} of {training.config.run.steps:,}: unfinished.")
    if data:
        items += data.limits()
    if probes:
        items += probes.limits()
    else:
        items.append("This report contains no probe, so the quality of the features is unknown.")
    items.append("Labels are used as given; label errors affect the figures.")
    return Section("Limits", (Bullets(tuple(items)),))
