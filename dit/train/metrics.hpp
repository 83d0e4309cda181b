// SPDX-License-Identifier: Apache-2.0
// What a run leaves to be read: run.json and metrics.jsonl.
#pragma once

#include <cstdint>
#include <string>

#include "dit/train/options.hpp"
#include "dit/train/trainer.hpp"

namespace vmoba::dit {

// Appends to OUT/metrics.jsonl. Lines of steps after `step`, left by a run that was cut off behind its last checkpoint,
// go first, so that no step is there twice. Throws Error(kind file) when the file cannot be written.
class Metrics {
 public:
  Metrics(const std::string& out, std::int64_t step);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  void write_run(const TrainOptions& options, std::int64_t parameters, std::int64_t tokens, std::int64_t threads,
                 std::int64_t ranks);
  void step(const StepReport& report, double elapsed);
  void validation(std::int64_t step, double loss, double averaged, double elapsed);  // averaged NaN: left out

 private:
  void line(const std::string& text);
  std::string out_, path_;
  int descriptor_ = -1;
  double before_ = 0;  // seconds of earlier calls of the run
};

}  // namespace vmoba::dit
