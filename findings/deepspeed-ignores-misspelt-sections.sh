#!/usr/bin/env bash
# deepspeed 0.19.8, DeepSpeedConfig (what deepspeed.initialize(config=...) reads)
#
# Expected: a key that DeepSpeed does not know is rejected, or causes a warning, as inside `zero_optimization`, whose
# model forbids extra keys.
# Observed: top-level keys are looked up one by one, and all others are silently ignored. With
# `zero_optimisation: {stage: 3}` (British spelling) a run trains at stage 0, with the whole model on each rank. One level
# deeper the same mistake is a ValidationError.
#
# Exits 1 if a misspelt section is rejected or has an effect, or a misspelt key in a section is accepted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 deepspeed==0.19.8 ninja==1.13.2 setuptools
cd "$work"
DS_ACCELERATOR=cpu "$work/venv/bin/python" - <<'PYTHON' 2> "$work/log"
import sys

import deepspeed
from deepspeed.runtime.config import DeepSpeedConfig
from pydantic import ValidationError

batch = {"train_batch_size": 1, "train_micro_batch_size_per_gpu": 1}
right = DeepSpeedConfig({**batch, "zero_optimization": {"stage": 3}})
wrong = DeepSpeedConfig({**batch, "zero_optimisation": {"stage": 3}})
try:
    DeepSpeedConfig({**batch, "zero_optimization": {"staeg": 3}})
    deeper = "accepted"
except ValidationError as error:
    deeper = error.errors()[0]["type"]
print(f"deepspeed {deepspeed.__version__}")
for name, config in {"as documented": right, "misspelt": wrong}.items():
    print(f"  {name}: ZeRO stage {config.zero_optimization_stage}")
print(f"  misspelt within zero_optimization: {deeper}")
stages = (right.zero_optimization_stage, wrong.zero_optimization_stage)
sys.exit(not (stages == (3, 0) and deeper == "extra_forbidden"))
PYTHON
if grep -i zero_optimisation "$work/log"; then
  echo "it is warned of now" >&2
  exit 1
fi
