"""Whether patients that a probe is tested on were in the encoder's pretraining data, by key or by scan."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.attempts import Attempt, attempts
from fmct_hpc.train.checkpoint import MANIFEST, checkpoint_of, file_facts, read_manifest
from fmct_hpc.train.export import encoder_info
from shards import Dataset
from shards.closed import Closed
from shards.errors import FmctError, raise_refusal
from shards.patients import marks

log = logging.getLogger(__name__)


class Leakage(Closed):
    """What is known of the tested patients; it stands in results and report."""

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
    encoder: str,
    tested: Mapping[str, frozenset[str]],
    pretraining: frozenset[str] | None,
    allowed: bool,
    unknown_allowed: bool = False,
) -> Leakage:
    """Compare the tested patients with those of the pretraining data (None: unknown), and log it.

    Both are told by `shards.patients.marks`, keys and source digests: a scan that was exported under another
    Patient ID counts. tested: the marks of each patient.

    Raises FmctError where they have patients in common and that is not `allowed`, and where nobody can know
    and neither is that.
    """
    seen = None if pretraining is None else sum(not pretraining.isdisjoint(of) for of in tested.values())
    found = Leakage(encoder=encoder, tested=len(tested), pretrained=seen)
    if seen and not allowed:
        raise FmctError(
            f"{found}, which flatters it; test on other patients, or set allow_pretraining_patients=true to "
            "have it reported beside the results"
        )
    if seen is None and not (allowed or unknown_allowed):
        raise FmctError(
            f"{found}; give the encoder its `pretraining` (that dataset, or its manifest.parquet), or set "
            "allow_unknown_pretraining=true to have it reported beside the results"
        )
    if seen != 0:
        log.warning("LEAKAGE: %s", found)
    return found


def pretraining_patients(weights: Path) -> frozenset[str] | None:
    """Patients' `marks` in the dataset that a run, or the run of a checkpoint or encoder file, is trained on.

    With them those of the run that it began from (run.start_from), and so on. None where a link of this is
    missing: weights that are not in a run folder or were replaced, volumes that are not there any more. What
    is found where the run's record says is taken only where its digest is the recorded one.
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
    begun_with = filter(None, (_of_digest(place, last.start_digest) for place in _places(first, run)))
    found = next(begun_with, None)
    earlier = pretraining_patients(found) if found else None
    return None if earlier is None else patients | earlier


def _of_digest(place: Path, digest: str | None) -> Path | None:
    """The weights of a recorded digest: `place`, a checkpoint or a file, or a checkpoint of the run there."""
    try:
        if place.is_dir():
            return checkpoint_of(place, digest)
        facts = file_facts(place)
    except (FmctError, OSError):  # the system does not give it, so that nobody knows
        return None
    return place if facts is not None and facts.sha256 == digest else None


def _run_of(weights: Path) -> Path | None:
    """The run folder of weights; None of a checkpoint that lies in none."""
    folder = (weights.parent if weights.is_file() else weights).absolute()
    if not (folder / MANIFEST).is_file():
        return folder
    folder = folder.resolve()  # a run's newest checkpoint may have a link of its own
    return folder.parent.parent if folder.parent.name == "checkpoints" else None


def _is_made_by(started: list[Attempt], weights: Path) -> bool:
    """Whether what the weights say of their training volumes fits the attempts; True if they say nothing."""
    if weights.is_dir() and (weights / MANIFEST).is_file():
        return read_manifest(weights).data.content_digest == started[-1].data.content_digest
    file = weights / "encoder.safetensors" if weights.is_dir() else weights
    if not file.with_suffix(".json").is_file():
        return True
    said = encoder_info(file).dataset_digest
    return said is None or said in {attempt.data.dataset_digest for attempt in started}


def _places(recorded: Path, run: Path) -> list[Path]:
    """Where a path of a run's record may be: a relative one was so where the training was called.

    That was here, or at one of the folders that the run lies in.
    """
    if recorded.is_absolute():
        return [recorded]
    return [folder / recorded for folder in (Path.cwd(), *run.parents, *run.resolve().parents)]


def _patients_at(recorded: Path, run: Path, content_digest: str) -> frozenset[str] | None:
    """The patients' `marks` in the dataset of that content; None where it is not at any of the places."""
    for place in _places(recorded, run):
        try:
            dataset = Dataset.open(place, clipped=True)
        except (FmctError, OSError):
            continue
        if dataset.content_digest() == content_digest:
            return marks(dataset.index)
    return None


def patients_of(data: Path) -> frozenset[str]:
    """Patients' `marks` in a shard dataset, or in a Parquet file with their keys (a manifest, for instance).

    Raises FmctError for anything else.
    """
    if data.is_dir():
        return marks(Dataset.open(data, clipped=True).index)
    try:
        held = pq.read_schema(data).names
        return marks(pq.read_table(data, columns=["patient_key", *{"source_digest"}.intersection(held)]))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise_refusal(error, data)
        raise FmctError(f"{data}: neither a shard dataset nor a Parquet file with patient_key") from None
