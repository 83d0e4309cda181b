#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Configures once, builds into build/, and installs the Python package into .venv from the same build.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$(.venv/bin/python -c 'import torch; print(torch.utils.cmake_prefix_path)')
if [[ ! -e build/build.ninja ]]; then
  cmake -S . -B build -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >build.log 2>&1 || { cat build.log; rm -f build.log; exit 1; }
  rm -f build.log
fi
# Two jobs at most: a file with torch headers takes 3 GB.
cores=$(nproc)
cmake --build build --parallel "${JOBS:-$((cores < 4 ? cores : 4))}"
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
cmake --install build --component python --prefix "$site" >/dev/null
