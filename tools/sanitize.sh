#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The CPU kernels under the address and undefined-behaviour sanitizers: drawn cases for every operator, the table of
# calls, guarded memory. Exit status 0 when nothing was reported.
#
#   tools/sanitize.sh [CASES [WORD...]]   # cases per operator, 300 unless told; only test files with a WORD in the name
#
# The first run compiles for a few minutes into build/sanitize; later ones only what changed. Each test file runs by
# itself, and one that has passed is not run again until the module, the package, the tests or CASES change: a run that
# was interrupted goes on where it stopped. PYTHON names the interpreter, which needs torch, pybind11, pytest and
# hypothesis; CMake and g++ (or clang++ as CXX) must be on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

cases=${1:-300} python=${PYTHON:-python3} folder=$PWD/build/sanitize
case $cases in '' | *[!0-9]*) sed -n '3,11s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;; esac
words=("${@:2}")

mkdir -p "$folder/passed"
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
state=$(find "$site/intarsia" tests/ops tests/conftest.py -name '*.py' -o -name '_C*.so' | LC_ALL=C sort |
  tr '\n' '\0' | xargs -0 sha256sum | cat - <(echo "$cases") | sha256sum)

# The interpreter is not instrumented, so the run-time library comes first; it needs libstdc++ to see exceptions.
compiler=${CXX:-g++}
runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
skipped="not triton and not cuda and not interpreted and not reference and not fork and not far and not library and not compile"

wanted() {
  [ "${#words[@]}" -eq 0 ] && return
  for word in "${words[@]}"; do case $1 in *"$word"*) return ;; esac; done
  return 1
}

# Status 0: passed, with no report; the last line of pytest is shown either way.
check() {
  local name=$1 reports=$folder/reports/$1 status=0
  rm -rf "$reports" && mkdir -p "$reports"
  env PYTHONPATH="$site" LD_PRELOAD="$runtime" INTARSIA_FUZZ_CASES="$cases" INTARSIA_REQUIRE=cpu \
    ASAN_OPTIONS="detect_leaks=0:log_path=$reports/asan" \
    UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan" \
    "$python" -m pytest -q -p no:cacheprovider "tests/ops/$name.py" -k "$skipped" >"$folder/$name.log" 2>&1 || status=$?
  if [ "$status" -eq 5 ]; then status=0; fi # every test of the file is left out
  printf '%-28s %s\n' "$name" "$(tail -n 1 "$folder/$name.log")"
  if [ -z "$(ls "$reports")" ] && [ "$status" -eq 0 ]; then
    echo "$state" >"$folder/passed/$name"
    return
  fi
  [ "$status" -eq 0 ] || tail -n 40 "$folder/$name.log"
  cat "$reports"/* 2>/dev/null | head -n 100 || true
  return 1
}

bad=0 done=0
for file in tests/ops/test_*.py; do
  name=$(basename "$file" .py)
  if [ "$name" = test_processes ] || ! wanted "$name"; then continue; fi
  done=$((done + 1))
  if [ "$(cat "$folder/passed/$name" 2>/dev/null)" = "$state" ]; then
    printf '%-28s %s\n' "$name" "passed before"
  else
    check "$name" || bad=$((bad + 1))
  fi
done
printf 'sanitize: %s of %s test files failed or were reported on, %s drawn cases per operator\n' "$bad" "$done" "$cases"
[ "$done" -gt 0 ] && [ "$bad" -eq 0 ]
