// SPDX-License-Identifier: Apache-2.0
// Weights at the start of training, as Wan has them, and a check of weights for numbers that are none.
#include <torch/torch.h>

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "dit/model/model.hpp"

namespace vmoba::dit {
namespace {

bool ends_with(const std::string& name, std::string_view end) { return std::string_view(name).ends_with(end); }
bool holds(const std::string& name, std::string_view part) { return name.find(part) != std::string::npos; }

// A stream for each tensor: FNV-1a of the name over the seed. A new layer leaves the others' numbers as they were.
at::Generator generator_of(std::uint64_t seed, const std::string& name) {
  std::uint64_t hash = 14695981039346656037ull ^ seed * 0x9E3779B97F4A7C15ull;
  for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 1099511628211ull;
  return at::make_generator<at::CPUGeneratorImpl>(hash);
}

void init(const std::string& name, at::Tensor& parameter, std::uint64_t seed) {
  const auto normal = [&](double deviation) {
    parameter.copy_(torch::empty(parameter.sizes(), at::kFloat).normal_(0, deviation, generator_of(seed, name)));
  };
  if (name == "proj_out.weight" || ends_with(name, ".bias") || ends_with(name, "pos_embed")) {
    parameter.zero_();
  } else if (ends_with(name, "scale_shift_table")) {
    normal(1 / std::sqrt(static_cast<double>(parameter.size(2))));
  } else if (parameter.dim() == 1) {
    parameter.fill_(1);  // of norms
  } else if (holds(name, "text_embedder") || holds(name, "time_embedder")) {
    normal(0.02);
  } else {
    const std::int64_t out = parameter.size(0), in = parameter.numel() / out;
    const double bound = std::sqrt(6.0 / static_cast<double>(in + out));
    parameter.copy_(torch::empty(parameter.sizes(), at::kFloat).uniform_(-bound, bound, generator_of(seed, name)));
  }
}

}  // namespace

void init_weights(WanModelImpl& model, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (auto& entry : model.named_parameters()) init(entry.key(), entry.value(), seed);
}

void init_weights(WanModel& model, std::uint64_t seed) { init_weights(*model, seed); }

std::vector<std::string> non_finite_weights(const WanModel& model) {
  const at::NoGradGuard no_grad;
  std::vector<std::string> names;
  for (const auto& entry : model->named_parameters()) {
    // A sum is finite only when every term is, or by a cancellation that needs terms beyond 1e30; look closely only
    // then.
    if (std::isfinite(entry.value().sum(at::kDouble).item<double>())) continue;
    if (!at::isfinite(entry.value()).all().item<bool>()) names.push_back(entry.key());
  }
  return names;
}

}  // namespace vmoba::dit
