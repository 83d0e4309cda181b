#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every test of the project and ends with one line of totals. Stages can be named:
# scripts/test.sh [cpp python instructions sanitizers fuzz].
set -uo pipefail
cd "$(dirname "$0")/.."
stages=${*:-cpp python instructions sanitizers fuzz}
cores=$(nproc)
passed=0 failed=0 skipped=0 closing=()
log=$(mktemp -d)
early=
trap '[[ -z $early ]] || kill -- "-$early" 2>/dev/null; rm -rf "$log"' EXIT
export VMOBA_PROGRAM=$PWD/build/vmoba
export VMOBA_CLIPS=${VMOBA_CLIPS:-$PWD/../shared/data/videos}

say() { printf '\n== %s\n' "$*"; }

# count_ctest LOG NAME: adds what ctest reported.
count_ctest() {
  local line
  line=$(grep -E '[0-9]+ tests failed out of [0-9]+' "$1" | tail -1)
  if [[ -z $line ]]; then failed=$((failed + 1)); return; fi
  local bad total off
  bad=$(sed -E 's/.* ([0-9]+) tests failed out of ([0-9]+).*/\1/' <<<"$line")
  total=$(sed -E 's/.* ([0-9]+) tests failed out of ([0-9]+).*/\2/' <<<"$line")
  off=$(grep -cE '\*\*\*Skipped' "$1")
  failed=$((failed + bad)) skipped=$((skipped + off)) passed=$((passed + total - bad - off))
  closing+=("ctest $2: $line")
}
run_ctest() {  # run_ctest DIR [ctest options]
  local dir=$1
  shift
  ctest --test-dir "$dir" --output-on-failure --no-tests=error --timeout 900 -j "$cores" "$@" 2>&1 | tee "$log/ctest" |
    grep -vE '^ +Start |Passed +[0-9.]+ sec$'
  count_ctest "$log/ctest" "$dir"
}
engine_build() {  # engine_build DIR TARGETS [cmake options]: of the engine and its tests, without torch
  local dir=$1 targets=$2
  shift 2
  [[ -e $dir/build.ninja ]] || cmake -S . -B "$dir" -G Ninja -DVMOBA_TORCH=OFF -DVMOBA_TOOLS=OFF "$@" >"$log/$dir" 2>&1 || { cat "$log/$dir"; return 1; }
  # shellcheck disable=SC2086  # several targets in words
  cmake --build "$dir" --parallel "$cores" --target $targets >"$log/$dir" 2>&1 || { tail -50 "$log/$dir"; return 1; }
}

for stage in $stages; do
  case $stage in
    cpp)
      say "C++ tests"
      run_ctest build
      ;;
    python)
      say "Python, program and end-to-end tests"
      # These leave most of a core idle: the longest build of the stages to come takes what is left over.
      if [[ " $stages " == *" sanitizers "* ]]; then
        set -m  # a process group of its own, so that an interrupt ends all of it
        (renice -n 19 $BASHPID && engine_build build-asan all -DVMOBA_SANITIZE=address,undefined) >/dev/null 2>&1 &
        early=$!
        set +m
      fi
      .venv/bin/python -m pytest tests -q -rs -p no:cacheprovider --durations=5 2>&1 | tee "$log/pytest"
      line=$(grep -E '^[0-9]+ (passed|failed|skipped|error)|^=+ .*(passed|failed|error).* =+$|(passed|failed|errors?).* in [0-9.]+s' "$log/pytest" | tail -1)
      number() { grep -oE "[0-9]+ $1" <<<"$line" | grep -oE '[0-9]+' || echo 0; }
      p=$(number passed) f=$(number failed) e=$(number 'errors?') s=$(number skipped)
      if [[ -z $line ]]; then f=1; fi
      passed=$((passed + p)) failed=$((failed + f + e)) skipped=$((skipped + s))
      closing+=("pytest: $line")
      ;;
    instructions)
      say "Instruction counts"
      python3 tests/instructions/check.py build/tests/instructions/vmoba_instructions 2>&1 | tee "$log/instructions"
      if [[ $(tail -1 "$log/instructions") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
      else
        failed=$((failed + 1))
      fi
      ;;
    sanitizers)
      # Heap checks and undefined behaviour, then data races, over the engine without torch.
      for kind in asan tsan; do
        say "Engine tests under $kind"
        # The largest problems repeat what small ones show and take minutes here. Races need threads, which are the same code in
        # every tier: the slowest one, minutes under tsan, is left out.
        flags=address,undefined targets=all filter=(-E 'LargeProblems|BracketSolver|AttendMemory|SameBitsForAnyThreads.generic')
        if [[ $kind == asan && -n $early ]]; then wait "$early"; early=; fi  # what failed is built again, and shown
        if [[ $kind == tsan ]]; then flags=thread targets="vmoba_engine_tests vmoba_cpu_tests vmoba_cpu_amx_tests" filter=(-R Thread -E 'generic|NOT_BUILT'); fi
        if engine_build build-$kind "$targets" -DVMOBA_SANITIZE=$flags; then
          run_ctest build-$kind "${filter[@]}"
        else
          failed=$((failed + 1))
        fi
      done
      ;;
    fuzz)
      # The same cases on every run, so that a change is judged by itself: FUZZ_SEED=$RANDOM FUZZ_SECONDS=3600 looks for new ones. A
      # finding leaves its bytes in build/fuzz, to be kept in fuzz/seeds/differential.
      say "Fuzz targets, ${FUZZ_SECONDS:=60} s each, from ${FUZZ_SEED:=1} on"
      if build/fuzz/fuzz_differential_replay --first "$FUZZ_SEED" --seconds "$FUZZ_SECONDS" --keep build/fuzz; then
        passed=$((passed + 1))
      else
        failed=$((failed + 1))
      fi
      if engine_build build-fuzz all -DVMOBA_FUZZ=ON -DVMOBA_TESTS=OFF -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14; then
        for name in fuzz_safetensors fuzz_config fuzz_selection fuzz_differential; do
          target=build-fuzz/fuzz/$name
          mkdir -p "$log/$name"
          (
            "$target" -artifact_prefix="build-fuzz/$name-" -seed="$FUZZ_SEED" -max_total_time="$FUZZ_SECONDS" -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 "$log/$name" "build-fuzz/fuzz/corpus/${name#fuzz_}" \
              >"$log/$name.log" 2>&1
            echo $? >"$log/$name.rc"
          ) &
          while (($(jobs -rp | wc -l) >= cores)); do wait -n; done
        done
        wait
        for rc in "$log"/fuzz_*.rc; do
          name=$(basename "$rc" .rc)
          if [[ $(cat "$rc") == 0 ]]; then
            passed=$((passed + 1))
            echo "$name: $(grep -oE 'stat::number_of_executed_units: +[0-9]+' "$log/$name.log" | grep -oE '[0-9]+') runs, no finding"
          else
            failed=$((failed + 1))
            tail -40 "$log/$name.log"
          fi
        done
      else
        failed=$((failed + 1))
      fi
      ;;
    *)
      echo "scripts/test.sh: unknown stage '$stage'; use cpp, python, instructions, sanitizers, fuzz" >&2
      exit 2
      ;;
  esac
done
echo
printf '%s\n' "${closing[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))
