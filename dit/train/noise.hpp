// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers of training and sampling: a number depends on (seed, stream, index) and on nothing else.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace vmoba::dit {

// What a stream of random numbers is for. Streams of different purposes never meet; the number of a stream is that of a
// sample, a parameter or a clip. There is no state: resuming at a step needs only the step.
enum class Purpose : std::uint8_t {
  training_noise = 1,
  training_time,
  caption_dropout,
  validation_noise,
  sampling,
  weights
};

struct Stream {
  std::uint64_t seed = 0;
  Purpose purpose = Purpose::sampling;
  std::uint64_t number = 0;  // < 2^56
};

// Philox4x32-10 and Box-Muller in double, rounded to float: the same bits for any number of threads.
double uniform(const Stream& stream, std::uint64_t index = 0);  // in (0, 1)
double normal(const Stream& stream, std::uint64_t index = 0);
at::Tensor normal_tensor(at::IntArrayRef shape, const Stream& stream);  // float32, contiguous

}  // namespace vmoba::dit
