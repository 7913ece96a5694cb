#!/usr/bin/env bash
# One small artefact of each kind of output, created by the code of one version; tests/integration/test_artefacts.py
# opens them with the current code. Run it once for each release, from its checkout:
#   bash tests/make_artefacts.sh CHECKOUT tests/data/artefacts/VERSION.zip
set -euo pipefail
checkout=$(realpath "$1") out=$(realpath -m "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export OMP_NUM_THREADS=1 PYTHONPATH="$checkout" PYTHONSAFEPATH=1
fmct() { python -m launch.cli "$@"; }

mkdir artefacts
cd artefacts
printf '%s' 'artefacts of tests: no secret' | sha256sum | head -c 64 > hmac.key
chmod 600 hmac.key
fmct demo export ../export --studies 8 --matrix 48
fmct scan ../export/dicom --catalog catalog.parquet
cat > preprocess.yaml <<'YAML'
key_file: hmac.key
workers: 1
grid: {spacing_mm: [9, 9, 9]}
output: {shard_mib: 1}
YAML
fmct preprocess catalog.parquet --out data --config preprocess.yaml
# With a limit of a finding that only flags, and a shifted date in the manifest.
fmct demo export ../small --studies 2 --seed 3 --matrix 48
fmct scan ../small/dicom --catalog small.parquet
fmct preprocess small.parquet --out marked --config preprocess.yaml \
  check.max_noise_hu=5 privacy.date_shift_days=30 'output.formats=[zarr]'
fmct labels ../export/labels.csv --key-file hmac.key --out labels.parquet
cat > train.yaml <<'YAML'
data: {path: data/zarr, windows: [[40, 80]], view_size: 8, local_views: 1, workers: 0}
model:
  {width: 12, depth: 1, heads: 2, register_tokens: 1, patch_size: 4, prototypes: 8, head_hidden: 12,
   head_bottleneck: 6, decoder_width: 6, decoder_depth: 1, decoder_heads: 1, positions: learned}
objective: {ibot_weight: 0.5}
engine: {device: cpu, precision: fp32}
run: {steps: 4, batch: 4, checkpoint_every: 2, log_every: 1, keep_last: 1}
YAML
train() { fmct train --config train.yaml "$@"; }
train --run zero1 --ranks 1 engine.zero_stage=1 --until 2
train --run zero3 --ranks 2 engine.zero_stage=3 --until 2
# The result of one more step with that version.
cp -r zero1 zero3 ..
train --run ../zero1 --ranks 1 engine.zero_stage=1 --until 3
train --run ../zero3 --ranks 2 engine.zero_stage=3 --until 3
tail -n 1 ../zero1/metrics.jsonl > zero1/further.jsonl
tail -n 1 ../zero3/metrics.jsonl > zero3/further.jsonl
fmct features data/zarr --encoder zero1 --out scans
cat > sweep.yaml <<'YAML'
data: data/zarr
labels: labels.parquet
features: stores
encoders:
  - {name: ours, weights: zero1}
  - {name: untrained, weights: zero1, untrained: 0}
tasks: [any_bleed]
methods: [logistic]
pools: [mean]
fractions: [1.0]
shots: []
seeds: [0]
split: {test: 0.4, validation: 0.25, seed: 1}
allow_pretraining_patients: true
device: cpu
YAML
fmct sweep sweep.yaml --out sweep
fmct probe zero1 --out probe data=data/zarr labels=labels.parquet folds=3
rm -rf data/qc marked/qc zero?/tensorboard zero?/reconstructions  # pictures for people are large
find . -exec touch -d 2026-01-01 {} +
mkdir -p "$(dirname "$out")"
rm -f "$out"
python -m zipfile -c "$out" ./*
