"""The configuration of `fmct retrieval`: a sweep's, and how volumes are searched."""

from pydantic import Field

from fmct_hpc.fields import Above0, Positive
from fmct_hpc.probe.config import SweepConfig
from shards.section import Section


class SearchConfig(Section):
    """Exact search within a memory budget, an index of faiss beyond it."""

    memory_gb: Above0 = 8.0
    """Gigabytes (10^9 bytes) for the features of one test set: half of a workstation with 16 GB, and 1.3
    million volumes of ViT-B (1,536 channels of 4 bytes)."""
    candidates: int = Field(default=1000, ge=100)
    """Volumes that the index finds for each question; they are then ranked exactly. Figures beyond this rank
    need the exact search."""
    probes: Positive = 256
    """Lists of the index that are searched for each question: of a million volumes one in sixteen, about the
    share with which the benchmark of docs/probes.md finds 97 % of the nearest."""


class RetrievalConfig(SweepConfig):
    """A sweep's configuration, with the search."""

    search: SearchConfig = Field(default=SearchConfig())
