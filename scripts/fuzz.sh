#!/usr/bin/env bash
# Fuzz the native codec under the address and the undefined-behaviour sanitiser: `scripts/fuzz.sh [SECONDS] [FUZZER...]`.
# Needs clang with its runtime (Debian: apt-get install clang libclang-rt-14-dev). Each fuzzer gets half of the time and
# starts from tests/fuzz/corpus; 0 seconds only build. What it finds is kept in build/fuzz, an input that fails as
# build/fuzz/FUZZER-*.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
fuzzers=("$@")
[[ ${#fuzzers[@]} -gt 0 ]] || fuzzers=(fuzz_decode fuzz_roundtrip)
native=${WATTWERK_FUZZ_SOURCE:-src/native}
build=${WATTWERK_FUZZ_BUILD:-build/fuzz}
mkdir -p "$build"

flags=(-std=c++20 -O2 -g -ffp-contract=off -fno-math-errno -fno-sanitize-recover=all
  -fsanitize=address,undefined,float-cast-overflow -I"$native" -Itests/fuzz)
# edges only: comparisons say nothing about an arithmetic code, and tracing them takes two thirds of the time
edges=(-fno-sanitize-coverage=trace-cmp)
kernels() { # NAME [FLAG...]: the same source, once for each instruction set
  local name=$1
  shift
  clang++ "${flags[@]}" -fsanitize=fuzzer-no-link "${edges[@]}" -DWATTWERK_ISA="$name" "$@" -c "$native/kernels.cpp" -o "$build/$name.o"
}
kernels scalar
objects=("$build/scalar.o")
if [[ $(uname -m) == x86_64 ]]; then
  kernels avx2 -march=x86-64-v3
  kernels avx512 -march=x86-64-v4
  objects+=("$build/avx2.o" "$build/avx512.o")
fi

for fuzzer in "${fuzzers[@]}"; do
  clang++ "${flags[@]}" -fsanitize=fuzzer "${edges[@]}" "tests/fuzz/$fuzzer.cpp" "${objects[@]}" -o "$build/$fuzzer"
  mkdir -p "$build/$fuzzer.corpus"
  [[ $seconds -gt 0 ]] || continue
  "$build/$fuzzer" -max_total_time=$((seconds / ${#fuzzers[@]})) -timeout=10 -rss_limit_mb=2048 -max_len=16384 \
    -print_final_stats=1 -artifact_prefix="$build/$fuzzer-" "$build/$fuzzer.corpus" "tests/fuzz/corpus/$fuzzer"
done
