// SPDX-License-Identifier: Apache-2.0
// AdamW on fp32 weights, the learning rate's course, clipping, averaged weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dit/train/tensors.hpp"

namespace vmoba::dit {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
};

// Decoupled weight decay (Loshchilov and Hutter), torch's fused kernel. Decays matrices; not vectors, tables and
// embeddings. Same bits on one machine for a given number of threads.
class AdamW {
 public:
  AdamW(NamedTensors parameters, const AdamWOptions& options);
  // Uses and keeps the gradients; a parameter without one counts as one with gradient zero.
  void step(double lr);
  void zero_grad();
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps);  // for resuming: the bias correction depends on it
  NamedTensors state() const;  // "NAME.exp_avg", "NAME.exp_avg_sq": the tensors themselves, to save and to load into

 private:
  struct Group {
    std::vector<at::Tensor> parameters, averages, squares, counts;
    double weight_decay = 0;
  };
  NamedTensors parameters_, averages_, squares_;
  Group groups_[2];
  AdamWOptions options_;
  std::int64_t steps_ = 0;
};

// The norm over all gradients, in double over per-tensor fp32 norms; scales them when it exceeds clip > 0. Returns the
// norm before.
double clip_gradients(const NamedTensors& parameters, double clip);

// lr of step (0 the first): linear warm-up, then cosine to lr / 10 at the last step, or constant.
double learning_rate(double lr, const std::string& schedule, std::int64_t warmup, std::int64_t step,
                     std::int64_t steps);

// Exponential moving average of weights.
class AveragedWeights {
 public:
  AveragedWeights(const NamedTensors& parameters, double decay);
  void update(std::int64_t step);  // the decay grows from 0.1: min(decay, (1 + step) / (10 + step))
  void swap();                     // exchanges averaged and current values
  const NamedTensors& tensors() const { return averages_; }

 private:
  NamedTensors parameters_, averages_;
  double decay_;
};

}  // namespace vmoba::dit
