#!/usr/bin/env bash
# nvidia-dali-cuda130 2.4.0 on a CPU, fn.readers.webdataset
#
# Expected: a component that no sample of a WebDataset tar has is an error, as sample["vol"] is a KeyError in webdataset;
# and a tar written by Python's tarfile with default settings can be read like any other.
# Observed: `ext` is everything after a file name's first dot. For a tar with KEY.vol.blosc and KEY.json,
# ext=["vol", "json"] returns the records and, for every sample, an empty buffer, without an error or a warning
# (missing_component_behavior is "empty" by default; "error" rejects it). Names in PAX headers, which tarfile's
# default format uses for names of more than 100 bytes, are not read: these members are empty too, even with their correct
# extension, while webdataset reads them, and DALI reads those of a GNU tar.
#
# Exits 1 if either is rejected or read.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --disable-pip-version-check)
# The wheel's own requirements are CUDA libraries, which nothing here loads.
"${pip[@]}" --no-deps nvidia-dali-cuda130==2.4.0
"${pip[@]}" numpy==2.4.6 astunparse gast makefun nvtx optree packaging six
"$work/venv/bin/python" - "$work" <<'PYTHON'
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def

CONTENT = {"vol.blosc": b"voxels", "json": b"{}"}


def write(path: Path, form: int, key: str) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for extension, data in CONTENT.items():
            member = tarfile.TarInfo(f"{key}.{extension}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, *extensions: str) -> list[bytes]:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph() -> tuple:
        return tuple(fn.readers.webdataset(paths=[str(path)], ext=list(extensions)))

    pipeline = graph()
    pipeline.build()
    return [bytes(np.array(batch.at(0))) for batch in pipeline.run()]


print(f"nvidia-dali {dali.__version__}; vol.blosc holds {CONTENT['vol.blosc']}:")
folder, found = Path(sys.argv[1]), {}
for name, form, key, extension in (
    ("ustar", tarfile.USTAR_FORMAT, "key", "vol.blosc"),
    ("ustar", tarfile.USTAR_FORMAT, "key", "vol"),
    ("GNU", tarfile.GNU_FORMAT, "k" * 120, "vol.blosc"),
    ("PAX", tarfile.PAX_FORMAT, "k" * 120, "vol.blosc"),
):
    found[name, extension] = read(write(folder / f"{name}.tar", form, key), extension, "json")
    print(f"  {name}, a key of {len(key)} bytes, ext {extension}, json: {found[name, extension]}")
whole, no_part = list(CONTENT.values()), [b"", CONTENT["json"]]
sys.exit(list(found.values()) != [whole, no_part, whole, [b"", b""]])
PYTHON
