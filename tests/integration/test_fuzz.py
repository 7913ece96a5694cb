"""Files damaged in thousands of ways: each becomes a volume, or a row of a table with a reason code.

FMCT_FUZZ_FILES=10000 draws as many files (default: a few hundred), `--seed 1` other ones.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import axial
from dicom_mutations import mutate
from preprocess_export import KEY, ROOT, write_series
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from preprocess.dicom.catalog import read_catalog
from preprocess.privacy.deidentify import Pseudonymizer
from preprocess.reasons import Reason
from preprocess.scan.run import rejected_path
from shards import Dataset, verify

FILES = int(os.environ.get("FMCT_FUZZ_FILES", "300"))
SLICES = 20
MEMORY_LIMIT = 2**30
"""Limit of a process's peak memory, bytes."""
SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian)
WITNESS_EVERY = 5
"""One series of these is undamaged: damage of others must not change its volume."""

RUN = """
import json, resource, sys
from pathlib import Path
from preprocess import run
from preprocess.config import GridConfig, OutputConfig, PreprocessConfig
from preprocess.scan.run import scan
from shards.parallel import stop_server

if __name__ == "__main__":
    export, out, key_file = map(Path, sys.argv[1:])
    catalog = out.parent / f"{out.name}.parquet"
    scan(export, catalog, workers=2)
    config = PreprocessConfig(
        key_file=key_file,
        workers=2,
        grid=GridConfig(spacing_mm=(4, 4, 4)),
        output=OutputConfig(formats=("zarr",), shard_mib=1),
    )
    run.preprocess(catalog, out, config)
    # Not this process's own ru_maxrss, which begins at that of the process it was forked from.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = int(status["VmHWM"].split()[0])
    stop_server()
    worst = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"worst": 1024 * worst}))
"""


def preprocess(export: Path, out: Path, key_file: Path) -> dict[str, int]:
    """Scan and preprocess in separate processes; returns their peak memory."""
    result = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, (export, out, key_file))],
        capture_output=True,
        text=True,
        timeout=120 + FILES,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def write_export(folder: Path) -> list[Path]:
    """Complete series, one per study, in several transfer syntaxes; returns the files to damage."""
    damaged: list[Path] = []
    study = 0
    while len(damaged) < FILES:
        paths = write_series(folder, study, 1, axial(slices=SLICES, gap=6.0, start=(-70 + study % 9, -60, 0)))
        syntax = SYNTAXES[study % len(SYNTAXES)]
        for path in paths if syntax != ExplicitVRLittleEndian else ():
            data = dcmread(path)
            if syntax == DeflatedExplicitVRLittleEndian:
                data.file_meta.TransferSyntaxUID = syntax
            else:
                data.compress(syntax, generate_instance_uid=False)
            data.save_as(path)
        if study % WITNESS_EVERY:
            damaged += paths
        study += 1
    return damaged[:FILES]


@pytest.mark.timeout(300 + 2 * FILES)
def test_every_damaged_file_is_in_a_volume_or_has_a_typed_reason(tmp_path: Path, fixed_seed: int) -> None:
    export, key_file = tmp_path / "export", tmp_path / "hmac.key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    damaged = write_export(export)
    preprocess(export, tmp_path / "whole", key_file)
    ways = Counter[str]()
    for number, path in enumerate(damaged):
        data, way = mutate(path.read_bytes(), fixed_seed, number)
        path.write_bytes(data)
        ways[way] += 1
    output = preprocess(export, tmp_path / "out", key_file)

    assert output["worst"] < MEMORY_LIMIT, f"{output['worst'] / 2**20:.0f} MiB"
    rejected = pq.read_table(rejected_path(tmp_path / "out.parquet")).to_pylist()
    series = read_catalog(tmp_path / "out.parquet")
    catalogued = {os.fsencode(i.path) for one in series for i in one.instances}
    files = {os.fsencode(path) for path in export.rglob("*") if path.is_file()}
    refused = {row["path"] for row in rejected}
    assert catalogued.isdisjoint(refused)
    assert catalogued | refused == files

    names = Pseudonymizer(key_file)
    keys = sorted(names.series(one.patient_id, one.study_uid, one.series_uid) for one in series)
    volumes = pq.read_table(tmp_path / "out" / "manifest.parquet")["key"].to_pylist()
    quarantine = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert sorted(volumes + [row["key"] for row in quarantine]) == keys
    reasons = Counter(row["reason"] for row in quarantine + rejected)
    print(ways, reasons, output)
    assert set(reasons) <= set(Reason)
    assert not reasons[Reason.INTERNAL_ERROR]

    assert verify(tmp_path / "out" / "zarr") == []
    before, after = Dataset.open(tmp_path / "whole" / "zarr"), Dataset.open(tmp_path / "out" / "zarr")
    changed = {names.study(f"{ROOT}.{study}") for study in range(len(before)) if study % WITNESS_EVERY}
    witnesses = [i for i in range(len(before)) if before.record(i).study_key not in changed]
    assert len(witnesses) >= FILES // SLICES // WITNESS_EVERY
    for i in witnesses:
        same = after.position(before.record(i).key)
        assert after.record(same) == before.record(i)
        np.testing.assert_array_equal(after.read(same), before.read(i))
