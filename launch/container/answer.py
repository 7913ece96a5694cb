"""Features or predictions of every exam in a folder, with the interface of challenge containers.

`python -m launch.container.answer` reads /input, each file or folder an exam, and the model in /model.
`PLACES` names the environment variables for other paths. It needs no network, and only writes to /output.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from launch.program import keep_working_folder_off_path
from launch.screen import echo, user_errors
from shards import caches
from shards.atomic import write_text
from shards.errors import FmctError
from shards.layers import named_layers
from shards.sharing import share

PLACES = {"FMCT_INPUT": "/input", "FMCT_OUTPUT": "/output", "FMCT_MODEL": "/model", "FMCT_DEVICE": "cpu"}
"""Environment variables and their defaults."""
RESULTS = "results.json"
ANSWERS = ("score", "probability", "positive")


def answer(given: Path, out: Path, model: Path, device: str) -> list[str]:
    """Write `out`/results.json and the table in the same folder; returns the names of exams without a result.

    given: a folder of exams, each a folder of DICOM, an archive, a NIfTI file or a shard dataset; hidden
    entries are ignored. model: a classifier's folder (`fmct export-classifier`), or one with an
    encoder.safetensors. Raises FmctError if there is no exam or no model.
    """
    exams = sorted(entry for entry in given.iterdir() if entry.name[0] != ".") if given.is_dir() else []
    if not exams:
        raise FmctError(f"{given}: contains no exams; mount a folder with a file or folder per exam")
    if (model / "classifier.json").is_file():
        kind, scans, reasons = "classifier", *_predictions(exams, out, model, device)
    elif (model / "encoder.safetensors").is_file():
        kind, scans, reasons = "encoder", *_features(exams, out, model, device)
    else:
        raise FmctError(
            f"{model}: contains no classifier.json or encoder.safetensors; mount or build in a model"
        )
    rows = [
        {"exam": exam.name, "scans": list(scans[number].values()), "reason": reasons.get(number)}
        for number, exam in enumerate(exams)
    ]
    write_text(out / RESULTS, json.dumps({"model": kind, "exams": rows}, indent=1) + "\n")
    return [exam.name for number, exam in enumerate(exams) if not scans[number]]


Scans = Mapping[int, dict[str, dict[str, Any]]]
"""Scans by exam number and key."""


def _predictions(exams: Sequence[Path], out: Path, model: Path, device: str) -> tuple[Scans, dict[int, str]]:
    from fmct_hpc.classifier.table import TABLE, Predictions

    predictions = Predictions(exams, model, out, device=device)
    predictions.run()
    predictions.collect()
    scans: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    reasons = {}
    for row in pq.read_table(out / TABLE).to_pylist():
        if row["reason"]:
            reasons[row["path"]] = row["reason"]
            continue
        new = {"key": row["key"], "flags": row["flags"], "answers": {}}
        scan = scans[row["path"]].setdefault(row["key"], new)
        scan["answers"][row["task"]] = {name: row[name] for name in ANSWERS}
    return scans, reasons


def _features(exams: Sequence[Path], out: Path, model: Path, device: str) -> tuple[Scans, dict[int, str]]:
    from fmct_hpc.inference.write import TABLE, write_features

    written = write_features(exams, model / "encoder.safetensors", out, device=device)
    scans: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    if written.scans:
        for row in pq.read_table(out / TABLE, columns=["path", "key", "flags"]).to_pylist():
            scan = {"key": row["key"], "flags": row["flags"], "features": f"{row['key']}.safetensors"}
            scans[row["path"]][row["key"]] = scan
    reasons: dict[int, str] = {}
    for line in "\n".join(written.refused).splitlines():  # "path N: why"
        number, _, why = line.removeprefix("path ").partition(": ")
        reasons[int(number)] = f"{reasons[int(number)]}; {why}" if int(number) in reasons else why
    return scans, reasons


def main() -> None:
    """Run it; exit code 2 with one line per exam without a result, or for a missing input."""
    keep_working_folder_off_path()
    given, out, model, device = (os.environ.get(name) or default for name, default in PLACES.items())
    with user_errors():
        share(None)
        caches.set_for_libraries()
        with named_layers():
            nothing = answer(Path(given), Path(out), Path(model), device)
    for name in nothing:
        echo(f"{name}: no result; the reason is in {RESULTS}", err=True)
    sys.exit(2 if nothing else 0)


if __name__ == "__main__":
    main()
