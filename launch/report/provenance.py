"""The report's part that says which bytes it is about: digests, versions, configuration."""

from typing import Any

import yaml

from launch.report.data import Data
from launch.report.document import Block, Code, Section, Text, facts
from launch.report.probe import Probes
from launch.report.training import Training


def provenance(training: Training, data: Data | None, probes: Probes | None) -> Section:
    """Digests of weights and data, versions of the code, and the configuration without paths."""
    checkpoint, encoder = training.checkpoint, training.encoder
    digests: dict[str, str | None] = {
        "encoder.safetensors, SHA-256": training.encoder_digest,
        "encoder's step": f"{encoder.step:,}" if encoder else None,
        "encoder's origin": encoder.origin if encoder else None,
        "encoder's code version": encoder.code_version if encoder else None,
    }
    if checkpoint:
        digests |= {
            "newest checkpoint's step": f"{checkpoint.step:,}",
            "newest checkpoint's digest": checkpoint.digest,
            "voxels of the training data, content digest": checkpoint.data.content_digest,
            "dataset of the training data": checkpoint.data.dataset_digest,
            "preprocessing configuration": checkpoint.data.preprocess_digest,
            **{f"version of {name}": version for name, version in checkpoint.versions.items()},
        }
    blocks: list[Block] = [facts("What this report is about", digests)]
    if not encoder:
        blocks.append(Text("The run has exported no encoder yet."))
    if not checkpoint:
        blocks.append(
            Text("The run has no checkpoint yet, so that the digests of its data are not recorded.")
        )
    if data and checkpoint:
        blocks.append(_same_data(training, data))
    if probes and encoder and probes.result.encoder_digest != training.encoder_digest:
        what = "The probes are of another encoder than the run's at its end: of step "
        blocks.append(
            Text(f"{what}{probes.result.step:,}, SHA-256 {probes.result.encoder_digest}.", warning=True)
        )
    configuration = without_paths(training.config.model_dump(mode="json"))
    recipe = yaml.safe_dump(configuration, sort_keys=False, default_flow_style=None, width=100)
    return Section("Provenance", (*blocks, Code("Configuration of training, as resolved", recipe)))


def _same_data(training: Training, data: Data) -> Text:
    """Whether the data section is about the volumes that the run learned from."""
    assert training.checkpoint, "asked only where there is one"
    facts = training.checkpoint.data
    if facts.dataset_digest in {dataset.digest for dataset in data.datasets}:
        return Text("The run was trained on the very dataset that the data section describes.")
    if facts.preprocess_digest in {dataset.config_digest for dataset in data.datasets}:
        return Text(
            "The run was trained on another dataset than the one that the data section describes, of the "
            "same preprocessing: a part of it, or more.",
            warning=True,
        )
    what = (
        "The data section describes volumes of another preprocessing than those that the run was trained on."
    )
    return Text(what, warning=True)


def without_paths(value: Any) -> Any:
    """A configuration without what has a slash in it: paths name people, projects and machines."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return "(a path)" if isinstance(value, str) and "/" in value else value
