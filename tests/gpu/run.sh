#!/usr/bin/env bash
# All measurements that need a GPU, in one call: on a machine with one NVIDIA GPU, Python 3.11 or newer and PyTorch
# 2.11 or newer, without network, with or without DALI and DeepSpeed.
#   bash tests/gpu/run.sh OUT [--dry] [PART...]
# OUT gets PART.json, PART.log, and gpu.json and gpu.md of all parts. Each part runs in a separate process, for at most
# ten minutes; no new measurement starts after 25 minutes in total. --dry runs everything at a tiny size on the CPU.
# Missing packages of a part are listed in the table, and the other parts continue. PYTHON: the interpreter.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: bash tests/gpu/run.sh OUT [--dry] [PART...]" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
dry=()
if [ "${1:-}" = --dry ]; then
  dry=(--dry)
  shift
fi
cd "$(dirname "$0")"
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(views transfer step variants large resume data)
root=$(cd ../.. && pwd)
export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
end=$((SECONDS + 1500))
for part in "${parts[@]}"; do
  left=$((end - SECONDS))
  limit=$((left < 600 ? left : 600))
  if [ "$limit" -lt 30 ]; then
    echo "$part: no time left" | tee "$out/$part.log"
    continue
  fi
  code=0
  timeout "$limit" "$python" measure.py "$part" --out "$out" --seconds $((limit - 20)) "${dry[@]}" > "$out/$part.log" 2>&1 || code=$?
  echo "$part: exit code $code, $SECONDS s; $(tail -n 1 "$out/$part.log")"
done
"$python" measure.py table --out "$out" "${dry[@]}" --parts "${parts[@]}"
