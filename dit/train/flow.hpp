// SPDX-License-Identifier: Apache-2.0
// Flow matching: the noised input, its target, the distribution of times in training and the time grid of sampling.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace vmoba::dit {

// x_s = (1 - s) x0 + s noise, target noise - x0; the model is told the timestep 1000 s.
struct FlowOptions {
  enum class Times : std::uint8_t { logit_normal, uniform } times = Times::logit_normal;  // of u, before the shift
  double shift = 1;                                                                       // > 0
};
FlowOptions::Times parse_times(const std::string& text);  // "logit-normal", "uniform"; throws Error

// s = shift u / (1 + (shift - 1) u).
double shifted(double u, double shift);
// The time s of a training sample: depends on (seed, sample) only.
double training_time(const FlowOptions& options, std::uint64_t seed, std::uint64_t sample);
// count times at the middles of equal quantiles of the training distribution: the same for every seed.
std::vector<double> validation_times(const FlowOptions& options, std::int64_t count);

// x0, noise [B, C, T, Y, X]; s [B]. Results have the dtype of x0.
at::Tensor noised(const at::Tensor& x0, const at::Tensor& noise, const at::Tensor& s);
at::Tensor flow_target(const at::Tensor& x0, const at::Tensor& noise);

// The time grid of Euler sampling, steps + 1 values from 1 down to 0, as diffusers' FlowMatchEulerDiscreteScheduler has
// it with this shift (it shifts the end of its grid twice, and so does this). Throws Error unless steps >= 1 and shift
// > 0.
std::vector<double> euler_times(std::int64_t steps, double shift);
// As Wan's own pipeline has it: steps + 1 evenly spaced values from 1 to 1/1000 of which the last is dropped, shifted
// once, then 0.
std::vector<double> wan_times(std::int64_t steps, double shift);

}  // namespace vmoba::dit
