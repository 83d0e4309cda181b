// SPDX-License-Identifier: Apache-2.0
// AdamW, learning rate, clipping, averaged weights.
#include "dit/train/optimizer.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace vmoba::dit {
namespace {

bool decays(const std::string& name, const at::Tensor& tensor) {
  return tensor.dim() >= 2 && name.find("table") == std::string::npos &&
         name.find("embedding.embedding") == std::string::npos && name.find("position") == std::string::npos;
}

}  // namespace

AdamW::AdamW(NamedTensors parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  groups_[1].weight_decay = options.weight_decay;
  for (const auto& [name, parameter] : parameters_) {
    Group& group = groups_[decays(name, parameter) ? 1 : 0];
    group.parameters.push_back(parameter);
    group.averages.push_back(at::zeros_like(parameter));
    group.squares.push_back(at::zeros_like(parameter));
    group.counts.push_back(at::zeros({}, at::kFloat));
    averages_.emplace_back(name + ".exp_avg", group.averages.back());
    squares_.emplace_back(name + ".exp_avg_sq", group.squares.back());
  }
}

void AdamW::step(double lr) {
  const torch::NoGradGuard no_grad;
  ++steps_;
  for (Group& group : groups_) {
    if (group.parameters.empty()) continue;
    std::vector<at::Tensor> gradients;
    for (at::Tensor& parameter : group.parameters) {
      if (!parameter.grad().defined()) parameter.mutable_grad() = at::zeros_like(parameter);
      gradients.push_back(parameter.grad());
    }
    at::_foreach_add_(group.counts, 1.0);
    at::_fused_adamw_(group.parameters, gradients, group.averages, group.squares, /*max_exp_avg_sqs=*/{}, group.counts,
                      lr, options_.beta1, options_.beta2, group.weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void AdamW::zero_grad() {
  // Dropping beats zeroing: the next backward then moves its gradient in instead of adding to zeros.
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad() = at::Tensor();
}

void AdamW::set_steps(std::int64_t steps) {
  steps_ = steps;
  for (Group& group : groups_) {
    for (at::Tensor& count : group.counts) count.fill_(static_cast<double>(steps));
  }
}

NamedTensors AdamW::state() const {
  NamedTensors all = averages_;
  all.insert(all.end(), squares_.begin(), squares_.end());
  return all;
}

double clip_gradients(const NamedTensors& parameters, double clip) {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return 0;
  const std::vector<at::Tensor> norms = at::_foreach_norm(gradients, 2);
  double sum = 0;
  for (const at::Tensor& norm : norms) {
    const double value = norm.item<double>();
    sum += value * value;
  }
  const double norm = std::sqrt(sum);
  if (clip > 0 && norm > clip) at::_foreach_mul_(gradients, clip / norm);
  return norm;
}

double learning_rate(double lr, const std::string& schedule, std::int64_t warmup, std::int64_t step,
                     std::int64_t steps) {
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
  if (schedule == "constant") return lr;
  const double share =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - 1 - warmup));
  const double low = 0.1;
  return lr * (low + (1 - low) * 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, share))));
}

AveragedWeights::AveragedWeights(const NamedTensors& parameters, double decay)
    : parameters_(parameters), decay_(decay) {
  for (const auto& [name, parameter] : parameters) averages_.emplace_back(name, parameter.detach().clone());
}

void AveragedWeights::update(std::int64_t step) {
  const torch::NoGradGuard no_grad;
  const double decay = std::min(decay_, static_cast<double>(1 + step) / static_cast<double>(10 + step));
  std::vector<at::Tensor> averages, current;
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    averages.push_back(averages_[i].second);
    current.push_back(parameters_[i].second.detach());
  }
  at::_foreach_lerp_(averages, current, 1 - decay);
}

void AveragedWeights::swap() {
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < averages_.size(); ++i) {
    at::Tensor current = parameters_[i].second.detach();
    const at::Tensor kept = current.clone();
    current.copy_(averages_[i].second);
    averages_[i].second.copy_(kept);
  }
}

}  // namespace vmoba::dit
