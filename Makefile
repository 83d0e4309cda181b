# SPDX-License-Identifier: Apache-2.0
# make demo | test | build | bench | format | clean. Each sets up what it needs (Debian packages, .venv) and reuses what is there.
.PHONY: all setup build demo test bench format clean
all: build

setup:
	@scripts/setup.sh

# Leaves build/vmoba and a .venv whose Python imports vmoba.
build: setup
	@scripts/build.sh

# Trains a small video transformer dense and with VMoBA, samples from both, writes demo/report.html. VIDEOS=dir uses your clips.
demo: build
	@scripts/demo.sh

# Every test: C++, Python, program, sanitizer builds, fuzz targets.
test: build
	@scripts/test.sh

# Kernels alone, a short choice (all: build/bench/vmoba_kernels), then the operator beside torch in sweeps: JSON and plots
# under bench/results/, named by machine and commit.
bench: build
	@build/bench/vmoba_kernels --benchmark_filter='/f32/D=128/tokens=4096/block=2x8x8/' --benchmark_min_time=0.2 --threads=$$(nproc)
	@build/vmoba bench --suite sweeps --out bench/results/ --plots

format: setup
	@git ls-files '*.cpp' '*.hpp' | xargs clang-format-14 -i

clean:
	rm -rf build build-asan build-tsan build-fuzz build-wheel demo dist
