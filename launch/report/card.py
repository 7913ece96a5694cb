"""The report's part that only people can judge by: what the model is for, what it is not, and its limits."""

from launch.report.data import Data
from launch.report.document import Bullets, Section
from launch.report.probe import Probes
from launch.report.training import Training

FOR = (
    "Research: features of head CT volumes without contrast, for classifiers that are trained and tested on "
    "labelled scans of the site where they are used, and as a start for fine-tuning.",
    "Input prepared by the preprocessing that the encoder was trained with; its digest stands under "
    "Provenance, and the probes refuse another.",
)
NOT_FOR = (
    "Diagnosis, triage or any other decision about a patient: it is no medical device, and has not been "
    "tested as one.",
    "Other body parts, MR, CT with contrast, bone kernels or populations that the data below does not hold.",
    "Finding out who a patient is, or linking scans of one.",
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
