#!/usr/bin/env bash
# nvidia-dali-cuda130 2.4.0 on a CPU, @pipeline_def(enable_conditionals=True) and fn.external_source
#
# Expected: `enable_conditionals` applies to `if` statements on DataNodes in the graph's function. A Python callback that is
# defined in it and passed to `fn.external_source` runs as plain Python, as without the flag.
# Observed: the callback is converted too (AutoGraph converts nested functions), and `zip` in it is AutoGraph's, which has no
# `strict`. A pipeline that works without the flag fails at run time with
# "TypeError: zip_() got an unexpected keyword argument 'strict'". Defined outside of the function, the callback works.
#
# Exits 1 if the callback is no longer converted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --disable-pip-version-check)
# The wheel's own requirements are CUDA libraries, which nothing here loads.
"${pip[@]}" --no-deps nvidia-dali-cuda130==2.4.0
"${pip[@]}" numpy==2.4.6 astunparse gast makefun nvtx optree packaging six
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def


def outside(number: int) -> list[np.ndarray]:
    return [np.array([a + b], np.float32) for a, b in zip([1, 2], [3, 4], strict=True)]


def run(conditionals: bool, nested: bool) -> str:
    @pipeline_def(batch_size=2, num_threads=1, device_id=None, enable_conditionals=conditionals)
    def graph() -> dali.pipeline.DataNode:
        def inside(number: int) -> list[np.ndarray]:
            return [np.array([a + b], np.float32) for a, b in zip([1, 2], [3, 4], strict=True)]

        source = inside if nested else outside
        return fn.external_source(source=source, batch=True, dtype=dali.types.FLOAT)

    try:
        pipeline = graph()
        pipeline.build()
        return str([float(value[0]) for value in map(np.asarray, pipeline.run()[0])])
    except TypeError as error:
        return f"TypeError: {error}"


print(f"nvidia-dali {dali.__version__}")
results = {(c, n): run(c, n) for c in (False, True) for n in (False, True)}
for (conditionals, nested), result in results.items():
    where = "in the graph's function" if nested else "outside of it"
    print(f"  enable_conditionals={conditionals}, callback defined {where}: {result}")
broken = results.pop((True, True))
sys.exit(not (set(results.values()) == {"[4.0, 6.0]"} and "strict" in broken))
PYTHON
