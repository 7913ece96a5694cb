#!/usr/bin/env bash
# All checks and tests, in a separate environment (.venv-test), on a real Slurm cluster on this host.
#   bash tests/run.sh [PYTEST ARGUMENTS]      for example: bash tests/run.sh tests/unit -k shards
# FMCT_COVERAGE=1 reports the share of executed lines, by package.
# As root it installs Slurm from Debian's packages and starts it. Otherwise it lists the tests that are skipped;
# with CI=true they fail instead.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n=== %s\n' "$*"; }

# System packages for the tests: Slurm with accounting, dcm2niix as an oracle of geometry, a browser.
packages=(slurm-wlm slurmdbd munge mariadb-server dcm2niix chromium chromium-driver)
programs=(slurmctld slurmd slurmdbd munged mariadbd dcm2niix chromium chromedriver)
missing() {
  local program
  for program in "${programs[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" > /dev/null || echo "$program"
  done
}

step "environment"
apt=
if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  echo "installing ${packages[*]}"
  # While pip installs. RUNLEVEL=1: do not start their services; the cluster starts its own.
  log=$(mktemp)
  (apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}") \
    > "$log" 2>&1 &
  apt=$!
  trap 'wait "$apt"' EXIT # no apt-get outlives this script
fi
system_packages() {
  [ -z "$apt" ] || wait "$apt" || { tail -n 30 "$log" >&2; exit 1; }
  [ -z "$apt" ] || rm "$log"
  apt=
  trap - EXIT
}
python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || system_packages # launch/environment.sh will need apt-get too
bash launch/environment.sh .venv-test --test
system_packages
export PATH="$PWD/.venv-test/bin:$PATH:/usr/sbin:/sbin"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # the tests start hundreds of processes, which would all compile the modules

step "style, import directions"
ruff check .
ruff format --check .
lint-imports

# Types take a minute of one core, while Slurm starts and the first tests run; the result is shown after the tests.
types=$(mktemp)
mypy > "$types" 2>&1 &
mypy=$!
cluster=
scratch=$(mktemp -d -t fmct-tests.XXXXXX)
clean_up() {
  set +e # all of it, whatever fails
  kill "$mypy" 2> /dev/null || true
  [ -z "$cluster" ] || { bash tests/cluster/stop.sh > /dev/null; rm -rf "$cluster"; }
  umount --lazy "$scratch" 2> /dev/null || true
  rm -rf "$types" "$scratch"
}
trap clean_up EXIT

step "Slurm"
if [ "$(id -u)" = 0 ] && [ -z "$(missing)" ]; then
  cluster=$(mktemp -d -t fmct-cluster.XXXXXX)
  export FMCT_CLUSTER_DIR=$cluster/slurm
  bash tests/cluster/start.sh
else
  echo "no cluster (needs root and: ${packages[*]}): tests marked slurm, those against dcm2niix and those in a browser cannot run"
fi

# The tests write 2 GB in many small files, and sync them: in memory, where possible.
if [ "$(awk '/MemAvailable/ { print int($2 / 2^20) }' /proc/meminfo)" -lt 12 ] ||
  ! mount -t tmpfs -o size=6g,mode=700 none "$scratch" 2> /dev/null; then
  echo "temporary files are in $scratch, not in memory (needs root and 12 GB of free memory)"
fi

# Three processes on two cores: tests often wait for Slurm, for a killed run or for one of several processes.
step "tests"
run=(pytest)
[ "${FMCT_COVERAGE-}" != 1 ] || run=(bash tests/coverage.sh)
code=0
"${run[@]}" --numprocesses 3 --no-loadscope-reorder --durations=25 --basetemp "$scratch/pytest" "$@" || code=$?

step "types"
wait "$mypy" || code=$?
cat "$types"
exit "$code"
