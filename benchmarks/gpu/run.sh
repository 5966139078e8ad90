#!/bin/bash
# Runs the GPU's checks on a bare machine, in less than ten minutes and without a network.
#
#   bash benchmarks/gpu/run.sh [--device cpu] [--tiny] FOLDER OUT
#
# FOLDER holds site.tar.xz of `python -m benchmarks.gpu.pack`. The machine needs a Python of the
# archive's version, with a torch of its own ($PYTHON, or python3). OUT gets a log of each part and
# its results, as far as they go: a part that fails or takes too long does not stop the next.
# `--device cpu --tiny` tries this script out where there is no GPU.
set -u
device=cuda tiny=
while [[ ${1-} == --* ]]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --tiny) tiny=--tiny; shift ;;
        *) echo "no option is called $1" >&2; exit 2 ;;
    esac
done
[[ $# == 2 ]] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/../.." || exit
mkdir -p "$2"
archive=$(realpath "$1")/site.tar.xz out=$(realpath "$2")
env=$(mktemp -d /tmp/gpu.XXXX)  # short: Ray puts sockets into it

install() {
    # No pip, and nothing that the machine has but torch and what torch needs: other packages there
    # may be built for another numpy.
    "${PYTHON:-python3}" -m venv --without-pip "$env/venv" || return
    site=$("$env/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
    "${PYTHON:-python3}" -m tarfile -e "$archive" "$site" || return
    "${PYTHON:-python3}" benchmarks/gpu/link_torch.py "$site" || return
    # The benchmarks name the version of this package, whose code is in this folder.
    mkdir -p "$site/rllib_ppg.dist-info"
    printf 'Metadata-Version: 2.1\nName: rllib-ppg\nVersion: %s\n' \
        "$(sed -n 's/^__version__ = "\(.*\)"/\1/p' rllib_ppg/_version.py)" \
        > "$site/rllib_ppg.dist-info/METADATA"
    export PATH=$env/venv/bin:$PATH PYTHONPATH=$PWD
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$site/system.libs
    export RAY_DISABLE_PYARROW_VERSION_CHECK=1  # what the archive has in its place has no version
    export RAY_TMPDIR=$env RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
    export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
    python - "$device" <<'END'
import sys, numpy, torch
print("torch", torch.__version__, "numpy", numpy.__version__, "CUDA", torch.version.cuda)
print(torch.ones(2, device=sys.argv[1]).sum().item(), "is 2.0 on", sys.argv[1])
END
}

part() {  # part NAME SECONDS COMMAND...
    local name=$1 limit=$2 code
    shift 2
    timeout --kill-after 5 "$limit" "$@" > "$out/$name.log" 2>&1
    code=$?
    echo "$name: exit code $code, at $SECONDS s" | tee -a "$out/summary.txt"
}

: > "$out/summary.txt"
[[ $device == cpu ]] && export CUDA_VISIBLE_DEVICES=
install > "$out/install.log" 2>&1
code=$?
echo "install: exit code $code, at $SECONDS s" | tee -a "$out/summary.txt"
if [[ $code == 0 ]]; then
    # Without conftest.py, which imports what makes videos, and without the machine's plug-ins.
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 part tests 90 python -m pytest -p pytest_timeout \
        -p no:cacheprovider --noconftest -v tests/test_cuda.py
    part rows 220 python -m benchmarks.gpu.measure rows $tiny --json "$out/rows.json"
    part starpilot 240 python -m benchmarks.gpu.measure starpilot $tiny --json "$out/starpilot.json" \
        --seconds "$([[ $tiny ]] && echo 30 || echo 220)"
fi
rm -rf "$env"
