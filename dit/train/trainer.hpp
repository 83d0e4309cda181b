// SPDX-License-Identifier: Apache-2.0
// The training loop: data, flow matching loss, AdamW, validation, metrics, checkpoints. Prints nothing; reports by
// callback.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dit/train/options.hpp"

namespace vmoba::dit {

class Group;

struct StepReport {
  std::int64_t step = 0, steps = 0;  // steps done, of all
  double loss = 0, smoothed = 0, lr = 0, gradient_norm = 0;
  double tokens_per_second = 0;  // video tokens of all ranks, over the whole step
  double seconds = 0;            // of this step: data + forward + backward + optimizer
  double data = 0, forward = 0, backward = 0, optimizer = 0;
  double waiting = 0;            // share of the time since the last report spent waiting for data, 0..1
  std::vector<double> density;   // per layer, of this step; only in steps that write a line of metrics
  std::int64_t peak_memory = 0;  // bytes, of the process so far
};

// Called on rank 0 only, from the thread that runs the trainer; each may be empty.
struct TrainCallbacks {
  std::function<void(const StepReport&)> step;
  std::function<void(std::int64_t step, double loss, double averaged)>
      validation;  // averaged: of the EMA weights, or NaN
  std::function<void(const std::string& path)> checkpoint;
  std::function<void(const std::string& line)> log;
  std::function<bool()> stop;  // true: finish the step, save, return; asked on every rank, one is enough
};

struct TrainResult {
  enum class Outcome : std::uint8_t {
    finished,
    interrupted,  // callbacks.stop or stop_after; a checkpoint was saved
    diverged,     // the loss or the gradient was not finite; weights are those of the last step, nothing was saved
  };
  Outcome outcome = Outcome::finished;
  std::int64_t step = 0;                                  // steps done
  double loss = 0, smoothed = 0;                          // of the last step
  double first_validation = 0, last_validation = 0;       // of this call; NaN when there was none
  double median_step_seconds = 0, tokens_per_second = 0;  // over this call's steps, the first left out
  std::int64_t tokens = 0, parameters = 0;                // of a sample, of the model
  std::string checkpoint;                                 // the last one written, or "" when none is there
  std::string message;  // diverged: a sentence naming the step and the last good checkpoint
};

// One training run. What a run computes depends on its options (out, data's place and the reporting options apart), the
// data and the number of threads, and on nothing else: the same call gives the same bits on one machine, and a run that
// stops at a checkpoint and continues gives the same bits as one that does not. Another number of threads or ranks
// gives the same run up to fp32 rounding.
//
// Files in out: run.json (options, machine), metrics.jsonl (a line {"step", "loss", "smoothed", "lr", "gradient_norm",
// "tokens_per_second", "density": [...], "seconds": {"step", "data", "forward", "backward", "optimizer"}, "waiting",
// "peak_memory", "elapsed"} every log_every steps, {"step", "validation_loss"[, "validation_loss_ema"], "elapsed"} for
// every validation), checkpoints/.
class Trainer {
 public:
  // Opens data and model, loads what is to be continued. group: null for one process. Throws Error.
  Trainer(TrainOptions options, TrainCallbacks callbacks, std::shared_ptr<Group> group = nullptr);
  ~Trainer();
  TrainResult run();
  const TrainOptions& options() const;  // as they came to be: a resolved dense path, the model of init
  WanModel& model();
  // The loss on fixed samples, noise and times; those depend on the data options and on nothing else.
  double validation_loss();
  std::int64_t step() const;  // steps done

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmoba::dit
