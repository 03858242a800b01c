#!/usr/bin/env bash
# Check that the native codec gives the same bytes on aarch64 as here: the fuzzers' corpus, replayed on this machine and
# under emulation. Needs (Debian) apt-get install g++ g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."

native=${WATTWERK_FUZZ_SOURCE:-src/native}
build=${WATTWERK_FUZZ_BUILD:-build/fuzz}
mkdir -p "$build"

build_replays() { # NAME COMPILER [FLAG...]: the compiler's kernels "scalar", and those of the flags
  local name=$1 compiler=$2
  shift 2
  local flags=(-std=c++20 -O2 -ffp-contract=off -fno-math-errno -Wno-psabi -I"$native" -Itests/fuzz)
  "$compiler" "${flags[@]}" -DWATTWERK_ISA=scalar -c "$native/kernels.cpp" -o "$build/$name-scalar.o"
  local objects=("$build/$name-scalar.o")
  if [[ $# -gt 0 ]]; then
    "$compiler" "${flags[@]}" "$@" -c "$native/kernels.cpp" -o "$build/$name-simd.o"
    objects+=("$build/$name-simd.o")
  else
    flags+=(-DWATTWERK_SCALAR_ONLY)
  fi
  for fuzzer in fuzz_decode fuzz_roundtrip; do
    "$compiler" "${flags[@]}" -static "tests/fuzz/$fuzzer.cpp" tests/fuzz/replay.cpp "${objects[@]}" -o "$build/$name-$fuzzer"
  done
}
build_replays here g++
build_replays aarch64 aarch64-linux-gnu-g++ -DWATTWERK_ISA=neon -DWATTWERK_NEON

for fuzzer in fuzz_decode fuzz_roundtrip; do
  here=$("$build/here-$fuzzer" tests/fuzz/corpus/$fuzzer/*)
  there=$(qemu-aarch64 "$build/aarch64-$fuzzer" tests/fuzz/corpus/$fuzzer/*)
  echo "$fuzzer here:    $here"
  echo "$fuzzer aarch64: $there"
  [[ ${here##* } == "${there##* }" ]] || { echo "aarch64 gives other results" >&2; exit 1; }
done
