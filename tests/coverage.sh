#!/usr/bin/env bash
# Runs pytest and reports the share of executed lines of each package, including processes that tests start.
#   bash tests/coverage.sh [PYTEST ARGUMENTS]       afterwards `coverage report` and `coverage html` show each file
set -euo pipefail
cd "$(dirname "$0")/.."
export COVERAGE_FILE=$PWD/.coverage
# From Python 3.12 on the interpreter can report lines, at a cost of a few per cent instead of half the time.
if python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then export COVERAGE_CORE=sysmon; fi
coverage erase
code=0
coverage run -m pytest "$@" || code=$?
coverage combine --quiet || true
for package in shards preprocess fmct_hpc launch; do
  share=$(coverage report --include "$package/*" --format total) && share+=" % of lines" || share="nothing ran"
  printf '%-12s%s\n' "$package" "$share"
done
exit "$code"
