#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, in under nine minutes: build, tests, memory checkers, benchmark; a table comes last.
#
#   tools/gpu_check.sh [--build] [--demand-sanitizer] [--logs DIR] [--steps NAME,NAME,...]
#
# Steps: build (only if asked for), look, tests, memcheck, racecheck, initcheck, bench. PYTHON names the interpreter.
# Exit status 0 when no step failed. A step past its time limit has failed. Without compute-sanitizer its three steps
# are reported as missing, which is a failure only under --demand-sanitizer.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

usage() { sed -n '3,10s/^# \{0,1\}//p' "$0"; }
build=no demand=no logs=build/gpu_check steps=build,look,tests,memcheck,racecheck,initcheck,bench
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=yes ;;
    --demand-sanitizer) demand=yes ;;
    --logs) logs=${2:?--logs needs a folder} && shift ;;
    --steps) steps=${2:?--steps needs a list} && shift ;;
    -h | --help) usage && exit 0 ;;
    *) printf 'gpu_check: unknown option %s\n' "$1" >&2 && usage >&2 && exit 2 ;;
  esac
  shift
done
mkdir -p "$logs" || exit 2

python=${PYTHON:-python3}
readonly longest=${GPU_CHECK_SECONDS:-530}
failed=0 table=""

row() { table+=$(printf '%-10s %-8s %5ss  %s' "$1" "$2" "$3" "${4:-}")$'\n'; }

# run NAME LIMIT COMMAND...: within the step's own limit and what is left of all.
run() {
  local name=$1 limit=$2 began=$SECONDS left status result
  shift 2
  left=$((longest - SECONDS))
  if [ "$left" -lt 1 ]; then
    row "$name" "NO TIME" 0 && failed=1 && return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  printf '== %s (at most %ss)\n' "$name" "$limit"
  timeout --kill-after=5 "$limit" "$@" >"$logs/$name.log" 2>&1
  status=$?
  case $status in
    0) result=pass ;;
    124 | 137) result="TIMEOUT" ;;
    *) result="FAIL" ;;
  esac
  if [ "$status" -ne 0 ]; then
    failed=1
    tail -n 25 "$logs/$name.log"
  fi
  row "$name" "$result" $((SECONDS - began)) "$(tail -n 1 "$logs/$name.log" | cut -c 1-90)"
}

sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    row "$1" missing 0 "compute-sanitizer is not on PATH; it comes with the CUDA toolkit"
    [ "$demand" = no ] || failed=1
    return
  fi
  # Torch's own allocator would hide what lies beyond a tensor.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 run "$1" 40 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "$python" tools/small_calls.py --device cuda
}

wanted() { case ",$steps," in *",$1,"*) true ;; *) false ;; esac; }

look='import sys, torch
from intarsia import ops
found = ops.backends()
print(*(f"{name}: {state}" for name, state in found.items()), sep="\n")
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}, torch {torch.__version__}")
sys.exit(any(found[name] != "available" for name in ("cuda", "triton")) or not torch.cuda.is_available())'

if [ "$build" = yes ] && wanted build; then
  run build 120 "$python" -m pip install --no-build-isolation --no-deps -C cmake.define.INTARSIA_CUDA=ON .
fi
if wanted look; then run look 40 "$python" -c "$look"; fi
if wanted tests; then
  INTARSIA_REQUIRE=cuda,triton run tests 170 "$python" -m pytest -q -p no:cacheprovider tests/ops tests/compose \
    tests/samplers -k "(cuda or triton or gpu) and not emulation and not sources" --durations=10
fi
for tool in memcheck racecheck initcheck; do
  if wanted "$tool"; then sanitize "$tool"; fi
done
if wanted bench; then run bench 75 "$python" -m benchmarks.run --device cuda --quick --json "$logs/bench.json"; fi

printf '\n%-10s %-8s %6s  %s\n%s' step result time "last line of $logs/STEP.log" "$table"
printf '%-10s %-8s %5ss\n' all "$([ "$failed" -eq 0 ] && echo pass || echo FAIL)" "$SECONDS"
exit "$failed"
