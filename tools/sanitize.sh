#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The CPU kernels under the address and undefined-behaviour sanitizers: drawn cases for every operator, the table of
# calls, guarded memory. Exit status 0 when nothing was reported.
#
#   tools/sanitize.sh [CASES]        # cases per operator, 300 unless told
#
# The first run compiles for a few minutes into build/sanitize; later ones only what changed. PYTHON names the
# interpreter, which needs torch, pybind11, pytest and hypothesis; CMake and g++ (or clang++ as CXX) must be on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

cases=${1:-300} python=${PYTHON:-python3} folder=$PWD/build/sanitize
case $cases in '' | *[!0-9]*) sed -n '3,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;; esac

mkdir -p "$folder"
cmake -S . -B "$folder" -DINTARSIA_SANITIZE=ON -DINTARSIA_CUDA=OFF -DCMAKE_BUILD_TYPE=None \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$folder/configure.log" 2>&1 ||
  { tail -n 20 "$folder/configure.log" && exit 1; }
cmake --build "$folder" --parallel "${JOBS:-2}"

# A package of its own around the module, so that the usual one stays as it is.
site=$folder/site
rm -rf "$site" && mkdir -p "$site"
cp -r python/intarsia "$site/"
rm -rf "$site"/intarsia/_C*.so "$site/intarsia/_triton"
cp "$folder"/_C*.so "$site/intarsia/"

# The interpreter is not instrumented, so the run-time library comes first; it needs libstdc++ to see exceptions.
compiler=${CXX:-g++}
runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"

reports=$folder/reports
rm -rf "$reports" && mkdir -p "$reports"
status=0
env PYTHONPATH="$site" LD_PRELOAD="$runtime" INTARSIA_FUZZ_CASES="$cases" INTARSIA_REQUIRE=cpu \
  ASAN_OPTIONS="detect_leaks=0:log_path=$reports/asan" \
  UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan" \
  "$python" -m pytest -q -p no:cacheprovider tests/ops \
  -k "not triton and not cuda and not interpreted and not reference and not fork and not far and not library and not compile" \
  --deselect tests/ops/test_processes.py || status=$?
found=$(find "$reports" -type f | wc -l)
cat "$reports"/* 2>/dev/null | head -n 100 || true
printf 'sanitize: %s reports, tests ended with status %s, %s drawn cases per operator\n' "$found" "$status" "$cases"
[ "$found" -eq 0 ] && [ "$status" -eq 0 ]
