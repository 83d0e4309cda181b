#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds a project outside this one against the engine and runs it: run.sh find_package|pkg_config|add_subdirectory BUILD SOURCE
set -euo pipefail
kind=$1 build=$2 source=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ $kind != add_subdirectory ]]; then
  cmake --install "$build" --component dev --prefix "$work/prefix" >/dev/null
fi
case $kind in
  pkg_config)
    PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name vmoba.pc)")
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046
    "${CXX:-c++}" -std=c++20 "$source/tests/consumer/main.cpp" -o "$work/consumer" $(pkg-config --cflags --libs vmoba)
    "$work/consumer"
    ;;
  *)
    cmake -S "$source/tests/consumer/$kind" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" \
      -DCMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache || true)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    cmake --build "$work/build" --target consumer >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    "$work/build/consumer"
    ;;
esac
