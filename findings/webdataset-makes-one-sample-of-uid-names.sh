#!/usr/bin/env bash
# webdataset 1.0.2, keys that are DICOM UIDs
#
# Expected: samples whose `__key__` is a Series or SOP Instance UID (1.2.826...), written by TarWriter, are read by
# WebDataset as they were: three keys, three samples.
# Observed: TarWriter writes names such as 1.2.826.0.1.3680043.8.498.11.json without a warning. WebDataset splits a name
# at its first dot, so every key becomes "1" and the rest of the UID becomes part of the extension. As no two extensions are
# equal, all samples of the tar are read as one, with key "1", without an error or a warning.
#
# Exits 1 if the samples are read separately, or there is an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import webdataset

warnings.simplefilter("error", UserWarning)
uids = [f"1.2.826.0.1.3680043.8.498.{number}" for number in (11, 22, 33)]
with webdataset.TarWriter("shard.tar") as writer:
    for number, uid in enumerate(uids):
        writer.write({"__key__": uid, "json": {"number": number}, "bin": bytes([number])})
samples = list(webdataset.WebDataset("shard.tar", shardshuffle=False))
print("webdataset", version("webdataset"))
print("written:", uids)
for sample in samples:
    print("read: key", sample["__key__"], "with", [name for name in sample if not name.startswith("__")])
sys.exit([sample["__key__"] for sample in samples] != ["1"])
PYTHON
