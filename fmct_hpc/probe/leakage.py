"""Check whether tested patients were in the encoder's pretraining data, by key or by scan."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.attempts import Attempt, attempts
from fmct_hpc.train.checkpoint import MANIFEST, checkpoint_of, read_manifest
from fmct_hpc.train.export import encoder_info
from fmct_hpc.train.weight_files import digests_of
from shards import Dataset
from shards.closed import Closed
from shards.errors import FmctError, raise_refusal
from shards.patients import Patients, marks

log = logging.getLogger(__name__)


class Leakage(Closed):
    """Overlap of tested patients and pretraining data, for results and report."""

    encoder: str
    tested: int
    """Number of tested patients."""
    pretrained: int | None
    """Tested patients in the pretraining data (without labels); None if that data is not available."""

    def __str__(self) -> str:
        if self.pretrained is None:
            return (
                f"encoder {self.encoder}: its pretraining data is not available, so tested patients may "
                "have been in it"
            )
        return (
            f"encoder {self.encoder}: {self.pretrained} of {self.tested} tested patients were in its "
            "pretraining data (without labels)"
        )


def check_leakage(
    encoder: str,
    tested: Patients,
    pretraining: frozenset[str] | None,
    allowed: bool,
    unknown_allowed: bool = False,
) -> Leakage:
    """Compare the tested patients with those of the pretraining data (None: unknown), and log the result.

    Patients are matched by `shards.patients.marks`, that is keys and source digests, so that a scan exported
    under another Patient ID counts.

    Raises FmctError for common patients unless `allowed`, and for unknown pretraining data unless `allowed`
    or `unknown_allowed`.
    """
    seen = None if pretraining is None else tested.marked(pretraining)
    leakage = Leakage(encoder=encoder, tested=len(tested), pretrained=seen)
    if seen and not allowed:
        raise FmctError(
            f"{leakage}, which biases the results; test on other patients, or set "
            "allow_pretraining_patients=true to report it with the results"
        )
    if seen is None and not (allowed or unknown_allowed):
        raise FmctError(
            f"{leakage}; set the encoder's `pretraining` (that dataset, or its manifest.parquet), or set "
            "allow_unknown_pretraining=true to report it with the results"
        )
    if seen != 0:
        log.warning("LEAKAGE: %s", leakage)
    return leakage


def pretraining_patients(weights: Path) -> frozenset[str] | None:
    """Patients' `marks` in the training dataset of a run, given by its folder, a checkpoint or encoder file.

    The marks of the run from which it started (run.start_from) are included, recursively. None if any link is
    missing: weights outside of a run folder, replaced weights, or deleted volumes. Datasets and weights at
    recorded paths count only if their digest is the recorded one.
    """
    run = _run_of(weights)
    started = attempts(run) if run else []
    if run is None or not started or not _is_made_by(started, weights):  # weights from elsewhere
        return None
    last = started[-1]
    try:
        training = TrainConfig.from_record(last.configuration)
    except ValidationError:
        return None
    patients = _patients_at(training.data.path, run, last.data.content_digest)
    first = training.run.start_from
    if first is None or patients is None:
        return patients
    starts = filter(None, (_of_digest(place, last.start_digest) for place in _places(first, run)))
    start = next(starts, None)
    earlier = pretraining_patients(start) if start else None
    return None if earlier is None else patients | earlier


def _of_digest(place: Path, digest: str | None) -> Path | None:
    """The weights with a recorded digest: `place`, a checkpoint or file, or a checkpoint of the run there."""
    try:
        if place.is_dir():
            return checkpoint_of(place, digest)
        return place if digest in digests_of(place) else None
    except (FmctError, OSError):  # unreadable, hence unknown
        return None


def _run_of(weights: Path) -> Path | None:
    """The run folder of weights; None for a checkpoint outside of a run."""
    folder = (weights.parent if weights.is_file() else weights).absolute()
    if not (folder / MANIFEST).is_file():
        return folder
    folder = folder.resolve()  # a run may have a link to its newest checkpoint
    return folder.parent.parent if folder.parent.name == "checkpoints" else None


def _is_made_by(started: list[Attempt], weights: Path) -> bool:
    """Whether the training dataset recorded with the weights matches the attempts; True if not recorded."""
    if weights.is_dir() and (weights / MANIFEST).is_file():
        return read_manifest(weights).data.content_digest == started[-1].data.content_digest
    file = weights / "encoder.safetensors" if weights.is_dir() else weights
    if not file.with_suffix(".json").is_file():
        return True
    recorded = encoder_info(file).dataset_digest
    return recorded is None or recorded in {attempt.data.dataset_digest for attempt in started}


def _places(recorded: Path, run: Path) -> list[Path]:
    """Candidates for a path in a run's record; a relative path was relative to the training's working folder.

    That was the current folder, or one of the parent folders of the run.
    """
    if recorded.is_absolute():
        return [recorded]
    return [folder / recorded for folder in (Path.cwd(), *run.parents, *run.resolve().parents)]


def _patients_at(recorded: Path, run: Path, content_digest: str) -> frozenset[str] | None:
    """The patients' `marks` in the dataset with that content; None if it is at none of the candidates."""
    for place in _places(recorded, run):
        try:
            dataset = Dataset.open(place, clipped=True)
        except (FmctError, OSError):
            continue
        if dataset.content_digest() == content_digest:
            return marks(dataset.index)
    return None


def patients_of(data: Path) -> frozenset[str]:
    """Patients' `marks` in a shard dataset, or in a Parquet file with their keys, such as a manifest.

    Raises FmctError for anything else.
    """
    if data.is_dir():
        return marks(Dataset.open(data, clipped=True).index)
    try:
        held = pq.read_schema(data).names
        return marks(pq.read_table(data, columns=["patient_key", *{"source_digest"}.intersection(held)]))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise_refusal(error, data)
        raise FmctError(f"{data}: expected a shard dataset or a Parquet file with patient_key") from None
