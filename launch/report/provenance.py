"""The report's section on provenance: digests, versions, configuration."""

from typing import Any

import yaml

from fmct_hpc.train.checkpoint import DataFacts
from launch.report.data import Data
from launch.report.document import Block, Code, Section, Text, facts
from launch.report.probe import Probes
from launch.report.training import Training


def provenance(training: Training, data: Data | None, probes: Probes | None) -> Section:
    """Digests of weights and data, versions of the code, and the configuration without paths."""
    checkpoint, encoder, learned = training.checkpoint, training.encoder, training.data
    digests: dict[str, str | None] = {
        "encoder.safetensors, SHA-256": training.encoder_digest,
        "encoder, step": f"{encoder.step:,}" if encoder else None,
        "encoder, origin": encoder.origin if encoder else None,
        "encoder, code version": encoder.code_version if encoder else None,
    }
    if checkpoint:
        digests |= {
            "newest checkpoint, digest": checkpoint.digest,
            "newest checkpoint, step": f"{checkpoint.step:,}",
        }
        digests |= {f"version of {name}": version for name, version in checkpoint.versions.items()}
    if learned:
        digests |= {
            "training volumes, content digest": learned.content_digest,
            "training volumes, dataset digest": learned.dataset_digest,
            "training volumes, preprocessing digest": learned.preprocess_digest,
        }
    blocks: list[Block] = [facts("Digests and versions", digests)]
    if not encoder:
        blocks.append(Text("The run has not exported an encoder yet."))
    if not checkpoint:
        blocks.append(Text("The run has no checkpoint yet."))
    if data and learned:
        blocks.append(_same_data(learned, data))
    if probes and probes.encoder_digest not in (None, training.encoder_digest):
        message = "The probes are not of the run's final encoder but of the one with SHA-256 "
        blocks.append(Text(f"{message}{probes.encoder_digest}.", warning=True))
    blocks += _software(training)
    configuration = without_paths(training.config.model_dump(mode="json"))
    recipe = yaml.safe_dump(configuration, sort_keys=False, default_flow_style=None, width=100)
    return Section("Provenance", (*blocks, Code("Resolved training configuration", recipe)))


def _software(training: Training) -> list[Block]:
    """The code version of each attempt, and the packages of the last one."""
    if not training.attempts:
        return []
    rows: dict[str, list[str]] = {}
    for attempt in training.attempts:
        software = attempt.software
        commit = software.commit or "none: an installed package"
        code = f"{software.version}, commit {commit}" + (", modified" if software.modified else "")
        rows.setdefault(f"{code}, Python {software.python}", []).append(str(attempt.number))
    codes = facts("Code, by attempt", {", ".join(numbers): code for code, numbers in rows.items()})
    packages = training.attempts[-1].software.packages
    listed = "\n".join(f"{name}=={version}" for name, version in packages.items())
    return [codes, Code("Packages of the last attempt", listed)]


def _same_data(learned: DataFacts, data: Data) -> Text:
    """Whether the data section describes the run's training volumes."""
    if learned.dataset_digest in {dataset.digest for dataset in data.datasets}:
        return Text("The run was trained on the dataset described in the data section.")
    if learned.preprocess_digest in {dataset.config_digest for dataset in data.datasets}:
        return Text(
            "The run was trained on a dataset with the same preprocessing as the one in the data section and "
            "other volumes, for example the training part of a split. The section on evaluation states how "
            "many of the tested patients it has seen."
        )
    return Text(
        "The data section describes volumes with another preprocessing than the run's training volumes.",
        warning=True,
    )


def without_paths(value: Any) -> Any:
    """A configuration with paths (text with a slash) replaced, since they can name people and machines."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return "(a path)" if isinstance(value, str) and "/" in value else value
