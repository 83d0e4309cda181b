// SPDX-License-Identifier: Apache-2.0
// Many processes, one run: data parallel gradients and Ulysses sequence parallelism over torch's c10d with Gloo.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "dit/model/model.hpp"
#include "dit/train/tensors.hpp"

namespace vmoba::dit {

// One rank of a run. Ranks that share a sample are neighbours: rank = data_rank * sequence_size + sequence_rank.
// All calls are collective: every rank makes them in the same order. Not thread-safe.
class Group {
 public:
  // Joins the run that torchrun describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); null when WORLD_SIZE is unset
  // or 1. Throws Error (kind argument) when a variable is missing or wrong, or sequence_parallel does not divide
  // WORLD_SIZE.
  static std::shared_ptr<Group> from_environment(std::int64_t sequence_parallel);
  Group(const std::string& address, std::int64_t port, std::int64_t rank, std::int64_t size,
        std::int64_t sequence_parallel);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  std::int64_t rank() const;
  std::int64_t size() const;
  std::int64_t data_rank() const;
  std::int64_t data_size() const;
  std::int64_t sequence_size() const;
  // Null when sequence_size() is 1. Gradients of shared weights come out size() times the rank's share, so that the
  // mean over all ranks, which GradientReducer takes, is the exact gradient.
  std::shared_ptr<SequenceParallel> sequence_parallel() const;

  void all_reduce(at::Tensor& tensor);  // sum, in place
  void broadcast(at::Tensor& tensor);   // from rank 0
  void barrier();

 private:
  friend class GradientReducer;
  struct State;
  std::unique_ptr<State> state_;
};

// Averages gradients over all ranks while the backward pass still runs: weights are put into buckets in the reverse of
// their order, and a bucket is sent when its last gradient is there. Buckets go out in one fixed order on every rank.
class GradientReducer {
 public:
  GradientReducer(const NamedTensors& parameters, std::shared_ptr<Group> group, std::int64_t bucket_bytes = 4 << 20);
  ~GradientReducer();
  void begin();   // before the last backward pass of a step: earlier ones only accumulate
  void finish();  // after it: sends what is left (weights without gradient count as zero), waits, writes the means back

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace vmoba::dit
