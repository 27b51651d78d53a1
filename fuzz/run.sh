#!/bin/bash
# Builds the fuzz targets with libFuzzer's coverage, which needs no nightly compiler, and runs each for a while.
#
#   fuzz/run.sh [--seconds N] [--coverage] [TARGET...]
#
# --coverage then tells how much of the code that reads bytes from outside is reached by all inputs that are kept.
# Begins with the inputs in fuzz/seeds/TARGET. What it finds of new ones stays in target/fuzz/corpus/TARGET; an input that breaks
# something is kept in target/fuzz/, and its name is said.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=20
coverage=
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2; shift ;;
        --coverage) coverage=1 ;;
        -*) echo "fuzz: no option '$1': fuzz/run.sh [--seconds N] [--coverage] [TARGET...]" >&2; exit 2 ;;
        *) targets+=("$1") ;;
    esac
    shift
done
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)

out=${CARGO_TARGET_DIR:-target}/fuzz
# What cargo-fuzz passes, but for the sanitizer: a stable compiler has none.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts are built without the flags.
build() {
    RUSTFLAGS=$flags CARGO_TARGET_DIR=$out/$1 cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host"
}
build build

for target in "${targets[@]}"; do
    program=$out/build/$host/release/$target
    if [ ! -x "$program" ]; then
        echo "fuzz: there is no target '$target'" >&2
        exit 2
    fi
    mkdir -p "$out/corpus/$target"
    log=$out/$target.log
    if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$out/$target-" "$out/corpus/$target" "fuzz/seeds/$target" >"$log" 2>&1; then
        tail -40 "$log" >&2
        echo "fuzz: $target fails; the input is beside $log" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    echo "fuzz: $target: $runs executions in $seconds s, $covered places of the code reached, nothing broken"
done

if [ "$coverage" ]; then
    mkdir -p "$out/driver"
    cc -O1 -Wall -c -o "$out/driver/coverage.o" fuzz/coverage.c
    ar rcs "$out/driver/libcoverage.a" "$out/driver/coverage.o"
    CUSTOM_LIBFUZZER_PATH=$(realpath "$out/driver/libcoverage.a") CUSTOM_LIBFUZZER_STD_CXX=none build covered
    python3 -B fuzz/coverage.py "$out/covered/$host/release" "$out/corpus" "${targets[@]}"
fi
