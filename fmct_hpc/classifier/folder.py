"""A classifier's folder: heads.safetensors, encoder.safetensors, encoder.json, and, last, classifier.json."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fmct_hpc.classifier.fit import Fit
from fmct_hpc.classifier.record import ENCODER, FILE_NAME, HEADS, ClassifierRecord
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.methods.registry import METHODS
from fmct_hpc.train.checkpoint import FileFacts, file_facts
from fmct_hpc.train.export import load_encoder, write_encoder
from shards import Dataset
from shards.atomic import write_bytes, write_text
from shards.errors import FmctError, raise_refusal
from shards.info import sha256
from shards.lock import writing
from shards.newer_version import read_error
from shards.subject import Origin, Subject, claim

REMEDY = "export the classifier again"


def write_classifier(fitted: Fit, out: Path) -> ClassifierRecord:
    """Write classifiers with their encoder to the folder `out`.

    Raises FmctError if `out` holds other files, or a classifier of another cell, dataset or labels.
    """
    config, unit, encoder = fitted.config, fitted.unit, fitted.encoder
    content, labels = Dataset.open(config.data).content_digest(), sha256(config.labels)
    later = {"sample"} if unit.sample == "volume" else set()  # a key that is missing in earlier versions
    cell = hashlib.sha256(unit.model_dump_json(exclude=later).encode()).hexdigest()
    about = {"dataset": content, "labels": labels, "encoder": config.encoders[0].digest(), "cell": cell}
    sources = {name: Origin.of(None, digest) for name, digest in about.items()}
    with writing(out, "fmct export-classifier"):
        claim(out, Subject(command="export-classifier", sources=sources), [FILE_NAME, HEADS, ENCODER])
        arrays = {
            f"{number}.{name}": np.asarray(array, order="C")
            for number, head in enumerate(fitted.heads)
            for name, array in head.arrays().items()
        }
        # Not with save_file, which raises no OSError if the disk is full.
        write_bytes(out / HEADS, save(arrays))
        weights = {f"encoder.{name}": tensor for name, tensor in encoder.module.state_dict().items()}
        write_encoder(out, weights, encoder.info)
        record = ClassifierRecord(
            encoder=unit.encoder,
            encoder_digest=encoder.digest,
            method=unit.method,
            layer=(-1 if unit.layer is None else unit.layer) % encoder.depth,
            pools=METHODS[unit.method].pools(config, unit.pool),
            seed=unit.seeds[0],
            fraction=unit.fraction,
            shots=unit.shots,
            least_specificity=config.min_specificity,
            least_sensitivity=config.min_sensitivity,
            data_digest=content,
            labels_digest=labels,
            cohort_digest=fitted.cohort.digest,
            code_version=version("fmct-hpc"),
            tasks=fitted.tasks,
            heads=_facts(out / HEADS),
            weights=_facts(out / ENCODER),
            of_studies=fitted.of_studies,
        )
        write_text(out / FILE_NAME, record.text(indent=1) + "\n")
    return record


def read_record(folder: Path) -> ClassifierRecord:
    """Read classifier.json of a classifier; raises FmctError as `read_classifier`."""
    file = folder / FILE_NAME
    try:
        return ClassifierRecord.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise FmctError(f"{folder}: no {FILE_NAME}; create it with `fmct export-classifier`") from None
    except (OSError, ValidationError) as error:
        raise_refusal(error, file)
        raise read_error(file, error, f"damaged; {REMEDY}") from None


def read_classifier(folder: Path) -> tuple[ClassifierRecord, OurEncoder, list[Head]]:
    """Read a folder of `write_classifier`: record, encoder, and one head per task of the record.

    Raises FmctError if there is no classifier, if a file is damaged or missing, and if the encoder is not the
    one on which the heads were fitted.
    """
    record = read_record(folder)
    for name, facts in ((HEADS, record.heads), (ENCODER, record.weights)):
        if file_facts(folder / name) != facts:
            raise FmctError(f"{folder / name}: missing, or its digest does not match; {REMEDY}")
    encoder = OurEncoder(*load_encoder(folder / ENCODER))
    if encoder.digest != record.encoder_digest:
        raise FmctError(f"{folder / ENCODER}: not the encoder of the classifier (digest mismatch); {REMEDY}")
    try:
        arrays = load((folder / HEADS).read_bytes())
        parts = [
            {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
            for number in range(len(record.tasks))
        ]
        attends = record.of_studies is not None and record.of_studies.sample == "study"
        method = METHODS[record.method]
        head = method.study_head() if attends else method.head()
        return record, encoder, [head.of(part) for part in parts]
    except (SafetensorError, TypeError):
        raise FmctError(f"{folder / HEADS}: unexpected or missing arrays; {REMEDY}") from None


def _facts(file: Path) -> FileFacts:
    facts = file_facts(file)
    assert facts is not None  # it was just written
    return facts
