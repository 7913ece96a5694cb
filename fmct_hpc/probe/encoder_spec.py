"""An encoder in a configuration file; read without PyTorch, as all configurations are."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Seed
from fmct_hpc.train.checkpoint import MANIFEST, file_facts
from shards.section import Section

PeerName = Literal["resnet50", "slices", "ct-fm", "merlin"]
"""The external encoders in `fmct_hpc.peers`."""


class EncoderSpec(Section):
    """An encoder in a configuration file, given by `weights`, `peer` or `function`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
    """Name in tables and file names."""
    weights: Path | None = None
    """A run folder, one of its checkpoints (run/checkpoints/step-...), an encoder.safetensors, or a
    checkpoint file of the reference; for a peer, its published file or folder."""
    peer: PeerName | None = None
    """An external encoder (docs/probes.md, "Encoders of others") with an adapter in this package."""
    untrained: Seed | None = None
    """Draw the weights from this seed; architecture and input are unchanged. A peer then needs no weights,
    except `slices`, whose folder defines the architecture."""
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    """module:function that returns an `fmct_hpc.probe.encoders.Encoder`. The function is run: commands accept
    it only from the user's own files, or with the user's consent (launch.own_code)."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the function, or settings of the peer."""
    pretraining: Path | None = None
    """The pretraining data, by which its patients are known: a shard dataset or a manifest.parquet. Not
    needed for runs of this package."""

    def digest(self) -> str:
        """SHA-256 of the weights file and all settings that determine the features.

        A missing file is left out. The code of a function is not covered.
        """
        chosen = self.model_dump_json(include={"untrained", "function", "arguments"})
        chosen += f" peer {self.peer}" if self.peer else ""
        files = _files_of_peer(self.weights) if self.weights and self.peer else None
        facts = [
            file_facts(file) for file in files or ([_weights_file(self.weights)] if self.weights else [])
        ]
        return hashlib.sha256(f"{chosen}{''.join(one.sha256 for one in facts if one)}".encode()).hexdigest()

    @property
    def pretraining_patients(self) -> frozenset[str] | None:
        """The patients' `shards.patients.marks`; empty for an untrained encoder, None if unknown."""
        if self.untrained is not None:
            return frozenset()
        from fmct_hpc.probe.leakage import patients_of, pretraining_patients

        if self.pretraining is not None:
            return patients_of(self.pretraining)
        return pretraining_patients(self.weights) if self.weights and self.peer is None else None

    @model_validator(mode="after")
    def _one_source(self) -> "EncoderSpec":
        if self.peer is not None:
            return self._of_peer(self.peer)
        if (self.weights is None) == (self.function is None):
            raise ValueError(f"encoder {self.name}: give one of weights and function")
        if self.function is None and self.arguments:
            raise ValueError(f"encoder {self.name}: arguments requires a function")
        if self.function is not None and self.untrained is not None:
            raise ValueError(f"encoder {self.name}: untrained requires weights and not a function")
        return self

    def _of_peer(self, peer: str) -> "EncoderSpec":
        from fmct_hpc.peers.registry import settings_of

        if self.function is not None:
            raise ValueError(f"encoder {self.name}: give one of peer and function")
        if self.weights is None and self.untrained is None:
            raise ValueError(f"encoder {self.name}: peer {peer} needs weights, or untrained: a seed")
        settings_of(peer, self.arguments)
        return self


def _weights_file(path: Path) -> Path:
    """The file that identifies the encoder at a path accepted by `load_weights`."""
    inside = (path / name for name in (MANIFEST, "encoder.safetensors"))
    return next((file for file in inside if file.is_file()), path)


def _files_of_peer(path: Path) -> list[Path]:
    """All files of a peer that determine its features: the file, or a folder's weights and JSON files."""
    if not path.is_dir():
        return [path]
    return sorted(file for pattern in ("*.safetensors", "*.json") for file in path.glob(pattern))
