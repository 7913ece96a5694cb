"""The report's part that only people can judge by: what the model is for, what it is not, and its limits."""

from fmct_hpc.hub.card import FOR as TO_RESEARCH
from fmct_hpc.hub.card import NOT_FOR
from launch.report.data import Data
from launch.report.document import Bullets, Section
from launch.report.probe import Probes
from launch.report.training import Training

FOR = (
    TO_RESEARCH,
    "Input prepared by the preprocessing that the encoder was trained with; its digest stands under "
    "Provenance, and the probes refuse another.",
)


def use() -> list[Section]:
    """What the model is for, and what it is not."""
    return [Section("Intended use", (Bullets(FOR),)), Section("Out of scope", (Bullets(NOT_FOR),))]


def limits(training: Training, data: Data | None, probes: Probes | None) -> Section:
    """What these very data, run and results do not show."""
    said: list[str] = []
    if training.steps < training.config.run.steps:
        said.append(f"The run is at step {training.steps:,} of {training.config.run.steps:,}: unfinished.")
    if data:
        said += data.limits()
    if probes:
        said += probes.limits()
    else:
        said.append("Nothing is known of what the features are worth: no probe is part of this report.")
    said.append("Labels of the probes are taken as they were given; their errors are in the figures.")
    return Section("Limits", (Bullets(tuple(said)),))
