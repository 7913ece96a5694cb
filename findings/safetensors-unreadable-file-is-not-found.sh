#!/usr/bin/env bash
# safetensors 0.8.0, load_file and safe_open
#
# Expected: for an existing weights file that the user may not read they raise PermissionError, like open(),
# with errno and filename set.
# Observed: both raise FileNotFoundError "No such file or directory" with errno None, as for a missing file.
# On a shared cluster, where colleagues' checkpoints are 0600, users then search for a file that exists,
# or a program treats a checkpoint as missing and starts over.
#
# Exits 1 if the exception is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
chmod 755 "$work"
"$work/venv/bin/python" - "$work" <<'PYTHON'
import os
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

file = Path(sys.argv[1]) / "weights.safetensors"
save_file({"weight": np.zeros(3, np.float32)}, file)
file.chmod(0)
if os.getuid() == 0:
    os.setuid(65534)  # root may read everything

print(f"safetensors {safetensors.__version__}")
found = {}
for name, read in {
    "open": lambda: open(file, "rb"),
    "load_file": lambda: load_file(file),
    "safe_open": lambda: safe_open(file, "numpy"),
    "load_file of an absent file": lambda: load_file(file.with_name("absent.safetensors")),
}.items():
    try:
        read()
    except OSError as error:
        found[name] = (type(error).__name__, error.errno)
        print(f"  {name}: {type(error).__name__}, errno {error.errno}")
expected = ("FileNotFoundError", None)
absent = found["load_file of an absent file"]
same = found["load_file"] == found["safe_open"] == absent == expected
sys.exit(not (found["open"][0] == "PermissionError" and same))
PYTHON
