"""Configuration of `fmct retrieval`: that of a sweep, with settings of the search."""

from pydantic import Field

from fmct_hpc.fields import Above0, Positive
from fmct_hpc.probe.config import SweepConfig
from shards.section import Section


class SearchConfig(Section):
    """Exact search within a memory budget, and a faiss index beyond it."""

    memory_gb: Above0 = 8.0
    """Gigabytes (10^9 bytes) for the features of one test set: half of a workstation with 16 GB, and 1.3
    million volumes of ViT-B (1,536 channels of 4 bytes)."""
    candidates: int = Field(default=1000, ge=100)
    """Volumes returned by the index per query, and then ranked exactly. Metrics beyond this rank require the
    exact search."""
    probes: Positive = 256
    """Lists of the index searched per query: for a million volumes one in sixteen, approximately the share
    with which the benchmark in docs/probes.md finds 97 % of the nearest."""


class RetrievalConfig(SweepConfig):
    """A sweep's configuration with settings of the search."""

    search: SearchConfig = Field(default=SearchConfig())
