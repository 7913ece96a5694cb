#!/usr/bin/env bash
# The whole pipeline in some minutes: creates its own environment and a small PACS export, then runs scan, preprocess,
# train (killed and resumed), probe on held-out patients, and report, whose last lines summarise the result.
#   bash launch/quickstart.sh [FOLDER] [SEED]     (default: demo 0; an earlier quickstart's folder is emptied first)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo}
seed=${2:-0}

bash launch/environment.sh .venv
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 # one rank per core

step() { printf '\n=== %s\n' "$*"; }

# Only a folder that this script created is emptied.
if [ -e "$out" ] && [ ! -e "$out/.quickstart" ]; then
  echo "quickstart: $out exists and is not an earlier quickstart's; name another folder" >&2
  exit 2
fi
rm -rf "$out"
mkdir -p "$out"
touch "$out/.quickstart"

step "1. A PACS export: synthetic heads from several scanners, and one real head CT"
fmct demo export "$out/export" --studies 480 --seed "$seed" --matrix 64 --real tests/data/ge_head_tilt18

step "2. Scan and preprocess: DICOM to de-identified volumes in shards; half of the patients are held out"
# A hospital's key is random and secret (fmct keygen). These patients are synthetic, and a fixed key holds out
# the same ones on every machine.
(umask 077 && printf 'quickstart' | sha256sum | cut -c1-64 > "$out/hmac.key")
fmct scan "$out/export/dicom" --catalog "$out/catalog.parquet"
fmct preprocess "$out/catalog.parquet" --out "$out/data" \
  --config launch/recipes/quickstart-preprocess.yaml key_file="$out/hmac.key"
fmct labels "$out/export/labels.csv" --key-file "$out/hmac.key" --out "$out/labels.parquet"
fmct shards split "$out/data/zarr" --out "$out/parts" pretraining=0.5 held_out=0.5
fmct shards convert "$out/parts/pretraining" --out "$out/webdataset" --to webdataset
fmct shards verify "$out/parts/pretraining"
fmct shards verify "$out/webdataset"

recipe=(--config launch/recipes/quickstart-train.yaml --ranks 2)
step "3. Train on 2 ranks: DINO and MAE under DeepSpeed ZeRO; this run is killed ..."
set -m # the run gets its own process group, so that one signal kills all its processes
fmct train --run "$out/run" "${recipe[@]}" data.path="$out/parts/pretraining" &
run=$!
set +m
until [ -e "$out/run/checkpoints/step-00000040" ]; do
  kill -0 "$run" 2> /dev/null || { wait "$run"; exit 1; }
  sleep 0.2
done
kill -KILL -- "-$run"
wait "$run" 2> /dev/null || true
echo "killed with SIGKILL; its checkpoints: $(cd "$out/run/checkpoints" && echo step-*)"

step "   ... and resumed from its newest checkpoint"
fmct train --run "$out/run" "${recipe[@]}" data.path="$out/parts/pretraining"

step "   The same run without interruption, from the other shard format, must give the same losses"
fmct train --run "$out/unbroken" "${recipe[@]}" --until 60 data.path="$out/webdataset"
fmct compare "$out/run" "$out/unbroken"

step "4. Probe on the held-out patients: are the features better than the untrained model's?"
fmct probe "$out/run" --out "$out/probe" --config launch/recipes/quickstart-probe.yaml \
  data="$out/parts/held_out" labels="$out/labels.parquet"
fmct report "$out/report.html" --data "$out/data" --run "$out/run" --probe "$out/probe" \
  --labels "$out/labels.parquet" --unbroken "$out/unbroken"
