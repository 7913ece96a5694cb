"""Whether patients that a probe is tested on were in the encoder's pretraining data."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import MANIFEST, file_facts
from shards import Dataset
from shards.errors import FmctError, raise_refusal

log = logging.getLogger(__name__)


class Leakage(BaseModel):
    """What is known of the tested patients; it stands in results and report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    tested: int
    """Patients."""
    pretrained: int | None
    """How many of them were in the pretraining data (without labels); None where that is not at hand."""

    def __str__(self) -> str:
        if self.pretrained is None:
            return (
                f"encoder {self.encoder}: its pretraining data is not at hand, so nobody knows whether "
                "tested patients were in it"
            )
        return (
            f"encoder {self.encoder}: {self.pretrained} of {self.tested} tested patients were in its "
            "pretraining data (without labels)"
        )


def check_leakage(
    encoder: str, tested: NDArray[np.str_], pretraining: frozenset[str] | None, allowed: bool
) -> Leakage:
    """Compare the tested patients' keys with those of the pretraining data (None: unknown), aloud.

    Raises FmctError where they have patients in common and that is not `allowed`.
    """
    patients = set(tested.tolist())
    seen = None if pretraining is None else len(patients & pretraining)
    found = Leakage(encoder=encoder, tested=len(patients), pretrained=seen)
    if seen and not allowed:
        raise FmctError(
            f"{found}, which flatters it; test on other patients, or set allow_pretraining_patients=true to "
            "have it reported beside the results"
        )
    if seen != 0:
        log.warning("LEAKAGE: %s", found)
    return found


def pretraining_patients(weights: Path) -> frozenset[str] | None:
    """Patient keys of the dataset that a run, or the run of a checkpoint or encoder file, is trained on.

    With them those of the run that it began from (run.start_from), and so on. None where a link of this is
    missing: weights that are not in a run folder or were replaced, volumes that are not there any more.
    """
    run = weights.parent if weights.is_file() else weights
    if (run / MANIFEST).is_file():
        run = run.resolve().parents[1]
    started = attempts(run)
    if not started:  # weights from elsewhere
        return None
    try:
        training = TrainConfig.model_validate(started[-1].configuration)
        dataset = Dataset.open(training.data.path)
    except (ValidationError, FmctError):
        return None
    if dataset.content_digest() != started[-1].data.content_digest:
        return None
    patients = frozenset(dataset.index["patient_key"].to_pylist())
    first = training.run.start_from
    if first is None:
        return patients
    facts = file_facts(first)
    earlier = pretraining_patients(first) if facts and facts.sha256 == started[-1].start_digest else None
    return None if earlier is None else patients | earlier


def patients_of(data: Path) -> frozenset[str]:
    """Patient keys of a shard dataset, or of a Parquet file that has them (a manifest, for instance).

    Raises FmctError for anything else.
    """
    if data.is_dir():
        return frozenset(Dataset.open(data).index["patient_key"].to_pylist())
    try:
        return frozenset(pq.read_table(data, columns=["patient_key"])["patient_key"].to_pylist())
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise_refusal(error, data)
        raise FmctError(f"{data}: neither a shard dataset nor a Parquet file with patient_key") from None
