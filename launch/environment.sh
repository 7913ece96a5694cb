#!/usr/bin/env bash
# Creates the pinned virtual environment in DIR and installs this checkout into it, editable. A second run without
# changes does nothing; after a changed pin or an interrupted installation the environment is created again.
#   bash launch/environment.sh DIR [--test] [--gpu] [--import]
#     --test   also the test tools
#     --gpu    also DALI's CUDA libraries (without them, DALI runs its CPU operators)
#     --import also SimpleITK, with which `fmct import` reads NRRD and MetaImage
# pip uses its configuration (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS may name CPU wheels of PyTorch) and logs to
# DIR/pip.log.
# All layers are installed (pyproject.toml), in the versions of launch/constraints.txt; DALI without the CUDA libraries
# that its wheel declares, which its CPU operators do not load, and which --gpu adds.
set -euo pipefail

fail() { echo "environment: $*" >&2; exit 2; }
say() { echo "environment: $*"; }

[ $# -ge 1 ] || fail "usage: bash launch/environment.sh DIR [--test] [--gpu] [--import]"
dir=$(realpath -m "$1")
shift
extras=(all)
for flag in "$@"; do
  case $flag in
    --test) extras+=(test) ;;
    --gpu) extras+=(gpu) ;;
    --import) extras+=(import) ;;
    *) fail "unknown option $flag; expected --test, --gpu or --import" ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usable_python() { python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; }
if ! usable_python && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  say "installing python3-venv from the system's packages"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv > /dev/null
fi
usable_python || fail "needs Python 3.11 or newer with venv as python3 on the PATH (Debian: apt-get install python3-venv)"

stamp=$dir/.fmct-stamp
inputs() { python3 -VV; pwd; echo "${extras[*]-}"; cat pyproject.toml launch/constraints.txt launch/environment.sh; cat tests/oracles.txt 2> /dev/null || true; }
digest=$(inputs | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2> /dev/null)" = "$digest" ]; then
  exit 0
fi
if [ -e "$dir" ] && [ ! -e "$dir/pyvenv.cfg" ]; then
  fail "$dir exists and is not a virtual environment; name another folder"
fi

say "creating $dir with $(python3 -V)"
python3 -m venv --clear "$dir"
pip() {
  "$dir/bin/python" -m pip "$@" --no-compile --disable-pip-version-check --progress-bar off >> "$dir/pip.log" 2>&1 \
    || { tail -n 20 "$dir/pip.log" >&2; fail "pip could not install everything (full log: $dir/pip.log)"; }
}
package=".[$(IFS=,; echo "${extras[*]}")]"
say "installing the pinned packages (the first time this downloads some hundred MB, in minutes)"
pip install --use-pep517 --constraint launch/constraints.txt --editable "$package"
say "installing DALI"
dali=$(grep -o 'nvidia-dali-cuda[0-9]*==[0-9.]*' pyproject.toml)
pip install --no-deps "$dali"
if [[ " ${extras[*]} " == *" test "* ]]; then
  say "installing the oracles of the tests"
  pip install --no-deps --target "$dir/oracles" --requirement tests/oracles.txt
fi
say "compiling the modules"
# On all cores; pip would use one. Some packages have templates that do not compile, which pip ignores too.
"$dir/bin/python" -m compileall -qq -j 0 "$dir/lib" || true
say "testing the imports"
DS_ACCELERATOR=cpu "$dir/bin/python" -c 'import deepspeed, nvidia.dali.fn, torch' > "$dir/import.log" 2>&1 \
  || { cat "$dir/import.log" >&2; fail "the installed packages cannot be imported"; }
echo "$digest" > "$stamp"
say "ready"
