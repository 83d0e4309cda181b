// SPDX-License-Identifier: Apache-2.0
// Flow matching: times, noising, targets.
#include "dit/train/flow.hpp"

#include <cmath>

#include "dit/train/noise.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

void check_shift(double shift) {
  if (!(shift > 0) || !std::isfinite(shift)) {
    throw_argument("shift", std::to_string(shift), "must be a positive number",
                   "use 3 (480p) or 5 (720p), or 1 for none");
  }
}

// The standard normal's quantile, by bisection of erfc: called a few times a run, so exactness beats speed.
double normal_quantile(double p) {
  double low = -40, high = 40;
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

FlowOptions::Times parse_times(const std::string& text) {
  if (text == "logit-normal") return FlowOptions::Times::logit_normal;
  if (text == "uniform") return FlowOptions::Times::uniform;
  throw_argument("times", text, "is not a distribution of training times", "use logit-normal or uniform");
}

double shifted(double u, double shift) { return shift * u / (1.0 + (shift - 1.0) * u); }

double training_time(const FlowOptions& options, std::uint64_t seed, std::uint64_t sample) {
  check_shift(options.shift);
  const Stream stream{seed, Purpose::training_time, sample};
  const double u = options.times == FlowOptions::Times::uniform ? uniform(stream) : logistic(normal(stream));
  return shifted(u, options.shift);
}

std::vector<double> validation_times(const FlowOptions& options, std::int64_t count) {
  check_shift(options.shift);
  std::vector<double> times;
  for (std::int64_t i = 0; i < count; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(count);
    const double u = options.times == FlowOptions::Times::uniform ? p : logistic(normal_quantile(p));
    times.push_back(shifted(u, options.shift));
  }
  return times;
}

at::Tensor noised(const at::Tensor& x0, const at::Tensor& noise, const at::Tensor& s) {
  const at::Tensor weight = s.to(x0.scalar_type()).view({-1, 1, 1, 1, 1});
  return (1 - weight) * x0 + weight * noise;
}

at::Tensor flow_target(const at::Tensor& x0, const at::Tensor& noise) { return noise - x0; }

std::vector<double> euler_times(std::int64_t steps, double shift) {
  if (steps < 1) throw_argument("steps", std::to_string(steps), "must be at least 1", "use 50, or 20 for a quick look");
  check_shift(shift);
  const double last = shifted(0.001, shift);
  std::vector<double> times;
  for (std::int64_t i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0.0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    times.push_back(shifted(1.0 + (last - 1.0) * share, shift));
  }
  times.push_back(0.0);
  return times;
}

std::vector<double> wan_times(std::int64_t steps, double shift) {
  if (steps < 1) throw_argument("steps", std::to_string(steps), "must be at least 1", "use 50, or 20 for a quick look");
  check_shift(shift);
  std::vector<double> times;
  for (std::int64_t i = 0; i < steps; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(steps);
    times.push_back(shifted(1.0 + (0.001 - 1.0) * share, shift));
  }
  times.push_back(0.0);
  return times;
}

}  // namespace vmoba::dit
