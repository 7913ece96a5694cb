"""The inputs of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sources:
    """The folders and files that a report reads; only the run is needed."""

    run: Path
    """Output folder of `fmct train`."""
    data: Path | None = None
    """Output folder of `fmct preprocess`."""
    probe: Path | None = None
    """Output folder of `fmct probe` or `fmct sweep`; with the groups of `fmct subgroups`, if it has them."""
    features: Path | None = None
    """A feature store, if not the one in `probe`."""
    labels: Path | None = None
    """The table of `fmct labels`, to colour the map of features."""
    relevance: Path | None = None
    """Output folder of `fmct relevance --masks`."""
    segment: Path | None = None
    """Output folder of `fmct segment`."""
    retrieval: Path | None = None
    """Output folder of `fmct retrieval`."""
    robustness: Path | None = None
    """Output folder of `fmct robustness`."""
    classifiers: Sequence[Path] = ()
    """Folders of `fmct export-classifier`."""
    predictions: Path | None = None
    """Output folder of `fmct predict`."""
