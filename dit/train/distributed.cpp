// SPDX-License-Identifier: Apache-2.0
// Data parallel gradients and Ulysses sequence parallelism over torch's c10d with Gloo.
#include "dit/train/distributed.hpp"

#include <torch/torch.h>

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

using Gloo = c10::intrusive_ptr<c10d::ProcessGroupGloo>;

Gloo make_gloo(const c10::intrusive_ptr<c10d::Store>& store, std::int64_t rank, std::int64_t size) {
  auto options = c10d::ProcessGroupGloo::Options::create();
  options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  auto gloo =
      c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(rank), static_cast<int>(size), options);
  // A process that refuses its arguments and ends at once must not break the connections that others still make.
  gloo->barrier()->wait();
  return gloo;
}

// [P a, ...] -> [P a, ...]: rank r's i-th part becomes rank i's r-th.
at::Tensor exchange(const Gloo& gloo, const at::Tensor& parts) {
  at::Tensor input = parts.contiguous(), output = at::empty_like(input);
  std::vector<std::int64_t> even;  // empty: equal parts of dimension 0
  gloo->alltoall_base(output, input, even, even)->wait();
  return output;
}

// [B, S / P, H, D] -> [B, S, H / P, D]
at::Tensor split_heads(const Gloo& gloo, const at::Tensor& x) {
  const std::int64_t ranks = gloo->getSize(), batch = x.size(0), tokens = x.size(1), heads = x.size(2), dim = x.size(3);
  const at::Tensor parts = x.reshape({batch, tokens, ranks, heads / ranks, dim}).permute({2, 0, 1, 3, 4});
  return exchange(gloo, parts).permute({1, 0, 2, 3, 4}).reshape({batch, ranks * tokens, heads / ranks, dim});
}

// [B, S, H / P, D] -> [B, S / P, H, D]
at::Tensor split_tokens(const Gloo& gloo, const at::Tensor& x) {
  const std::int64_t ranks = gloo->getSize(), batch = x.size(0), tokens = x.size(1), heads = x.size(2), dim = x.size(3);
  const at::Tensor parts = x.reshape({batch, ranks, tokens / ranks, heads, dim}).permute({1, 0, 2, 3, 4});
  return exchange(gloo, parts).permute({1, 2, 0, 3, 4}).reshape({batch, tokens / ranks, ranks * heads, dim});
}

// The process group travels through autograd in a box that IValue can hold.
struct GlooBox : torch::CustomClassHolder {
  explicit GlooBox(Gloo group) : gloo(std::move(group)) {}
  Gloo gloo;
};

struct TokensToHeads : torch::autograd::Function<TokensToHeads> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<GlooBox>& box) {
    context->saved_data["box"] = c10::IValue::make_capsule(box);
    return split_heads(box->gloo, x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto box = c10::static_intrusive_pointer_cast<GlooBox>(context->saved_data["box"].toCapsule());
    return {split_tokens(box->gloo, gradients[0]), at::Tensor()};
  }
};

struct HeadsToTokens : torch::autograd::Function<HeadsToTokens> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<GlooBox>& box) {
    context->saved_data["box"] = c10::IValue::make_capsule(box);
    return split_tokens(box->gloo, x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto box = c10::static_intrusive_pointer_cast<GlooBox>(context->saved_data["box"].toCapsule());
    return {split_heads(box->gloo, gradients[0]), at::Tensor()};
  }
};

struct GatherTokens : torch::autograd::Function<GatherTokens> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<GlooBox>& box) {
    context->saved_data["box"] = c10::IValue::make_capsule(box);
    std::vector<at::Tensor> input{x.contiguous()};
    std::vector<std::vector<at::Tensor>> output(1);
    for (int rank = 0; rank < box->gloo->getSize(); ++rank) output[0].push_back(at::empty_like(input[0]));
    box->gloo->allgather(output, input)->wait();
    return at::cat(output[0], 1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto box = c10::static_intrusive_pointer_cast<GlooBox>(context->saved_data["box"].toCapsule());
    std::vector<at::Tensor> sum{gradients[0].contiguous().clone()};
    box->gloo->allreduce(sum)->wait();
    const std::int64_t tokens = sum[0].size(1) / box->gloo->getSize();
    return {sum[0].narrow(1, box->gloo->getRank() * tokens, tokens).contiguous(), at::Tensor()};
  }
};

class Ulysses final : public SequenceParallel {
 public:
  explicit Ulysses(Gloo gloo) : box_(c10::make_intrusive<GlooBox>(std::move(gloo))) {}
  std::int64_t rank() const override { return box_->gloo->getRank(); }
  std::int64_t size() const override { return box_->gloo->getSize(); }
  at::Tensor tokens_to_heads(const at::Tensor& x) override {
    if (x.size(2) % size() != 0) {
      throw_argument("sequence-parallel", std::to_string(size()),
                     "must divide the " + std::to_string(x.size(2)) + " heads",
                     "use a divisor of " + std::to_string(x.size(2)));
    }
    return TokensToHeads::apply(x, box_);
  }
  at::Tensor heads_to_tokens(const at::Tensor& x) override {
    if (x.size(1) % size() != 0) {
      throw_argument("sequence-parallel", std::to_string(size()),
                     "must divide the " + std::to_string(x.size(1)) + " tokens",
                     "use a divisor of " + std::to_string(x.size(1)));
    }
    return HeadsToTokens::apply(x, box_);
  }
  at::Tensor gather_tokens(const at::Tensor& x) override { return GatherTokens::apply(x, box_); }

 private:
  c10::intrusive_ptr<GlooBox> box_;
};

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::int64_t number_variable(const char* name, std::int64_t low, std::int64_t high) {
  const std::string text = variable(name);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value < low || value > high) {
    throw_argument(name, text, "must be a whole number in " + std::to_string(low) + ".." + std::to_string(high),
                   "start the program with torchrun --no-python --nproc-per-node N");
  }
  return value;
}

}  // namespace

struct Group::State {
  std::int64_t rank = 0, size = 1, sequence_size = 1;
  c10::intrusive_ptr<c10d::Store> store;
  Gloo world;
  std::shared_ptr<SequenceParallel> sequence;
};

std::shared_ptr<Group> Group::from_environment(std::int64_t sequence_parallel) {
  std::int64_t size = 1;
  if (!variable("WORLD_SIZE").empty()) size = number_variable("WORLD_SIZE", 1, 1 << 20);
  if (size == 1) {
    if (sequence_parallel != 1) {
      throw_argument(
          "sequence-parallel", std::to_string(sequence_parallel), "needs as many processes",
          "start the program with torchrun --no-python --nproc-per-node " + std::to_string(sequence_parallel));
    }
    return nullptr;
  }
  const std::int64_t rank = number_variable("RANK", 0, size - 1), port = number_variable("MASTER_PORT", 1, 65535);
  const std::string address = variable("MASTER_ADDR");
  if (address.empty()) {
    throw_argument("MASTER_ADDR", "", "must name the host of rank 0", "start the program with torchrun --no-python");
  }
  return std::make_shared<Group>(address, port, rank, size, sequence_parallel);
}

Group::Group(const std::string& address, std::int64_t port, std::int64_t rank, std::int64_t size,
             std::int64_t sequence_parallel)
    : state_(std::make_unique<State>()) {
  if (sequence_parallel < 1 || size % sequence_parallel != 0) {
    std::string divisors;
    for (std::int64_t n = 1; n <= size; ++n) {
      if (size % n == 0) divisors += (divisors.empty() ? "" : ", ") + std::to_string(n);
    }
    throw_argument("sequence-parallel", std::to_string(sequence_parallel),
                   "must divide the " + std::to_string(size) + " processes of the run", "use one of " + divisors);
  }
  state_->rank = rank;
  state_->size = size;
  state_->sequence_size = sequence_parallel;
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(port);
  // torchrun keeps a store of its own at this address and says so; without it rank 0 opens one.
  options.isServer = rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.numWorkers = static_cast<std::size_t>(size);
  options.waitWorkers = variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  const auto store = c10::make_intrusive<c10d::TCPStore>(address, options);
  state_->store = c10::make_intrusive<c10d::PrefixStore>("vmoba/" + variable("TORCHELASTIC_RESTART_COUNT"), store);
  state_->world = make_gloo(c10::make_intrusive<c10d::PrefixStore>("world", state_->store), rank, size);
  if (sequence_parallel > 1) {
    const std::int64_t sample = rank / sequence_parallel;
    state_->sequence = std::make_shared<Ulysses>(
        make_gloo(c10::make_intrusive<c10d::PrefixStore>("sequence/" + std::to_string(sample), state_->store),
                  rank % sequence_parallel, sequence_parallel));
  }
}

Group::~Group() = default;

std::int64_t Group::rank() const { return state_->rank; }
std::int64_t Group::size() const { return state_->size; }
std::int64_t Group::data_rank() const { return state_->rank / state_->sequence_size; }
std::int64_t Group::data_size() const { return state_->size / state_->sequence_size; }
std::int64_t Group::sequence_size() const { return state_->sequence_size; }
std::shared_ptr<SequenceParallel> Group::sequence_parallel() const { return state_->sequence; }

void Group::all_reduce(at::Tensor& tensor) {
  std::vector<at::Tensor> tensors{tensor};
  state_->world->allreduce(tensors)->wait();
}

void Group::broadcast(at::Tensor& tensor) {
  std::vector<at::Tensor> tensors{tensor};
  state_->world->broadcast(tensors)->wait();
}

void Group::barrier() { state_->world->barrier()->wait(); }

struct GradientReducer::State {
  struct Bucket {
    std::vector<at::Tensor> parameters;
    std::size_t missing = 0;
    at::Tensor flat;
    c10::intrusive_ptr<c10d::Work> work;
  };
  std::shared_ptr<Group> group;
  std::vector<Bucket> buckets;
  std::size_t next = 0;  // the first bucket not yet sent
  bool active = false;

  void arrived(std::size_t bucket) {
    if (!active) return;
    --buckets[bucket].missing;
    while (next < buckets.size() && buckets[next].missing == 0) send(buckets[next++]);
  }

  void send(Bucket& bucket) {
    const torch::NoGradGuard no_grad;
    std::vector<at::Tensor> flat;
    for (const at::Tensor& parameter : bucket.parameters) {
      flat.push_back(parameter.grad().defined() ? parameter.grad().reshape({-1})
                                                : at::zeros({parameter.numel()}, parameter.options()));
    }
    bucket.flat = at::cat(flat);
    std::vector<at::Tensor> tensors{bucket.flat};
    bucket.work = group->state_->world->allreduce(tensors);
  }
};

namespace {

struct ArrivalHook final : torch::autograd::PostAccumulateGradHook {
  explicit ArrivalHook(std::function<void()> call) : arrived(std::move(call)) {}
  void operator()(const torch::autograd::Variable&) override { arrived(); }
  std::function<void()> arrived;
};

}  // namespace

GradientReducer::GradientReducer(const NamedTensors& parameters, std::shared_ptr<Group> group,
                                 std::int64_t bucket_bytes)
    : state_(std::make_shared<State>()) {
  state_->group = std::move(group);
  std::int64_t filled = bucket_bytes;
  for (auto item = parameters.rbegin(); item != parameters.rend(); ++item) {
    if (filled >= bucket_bytes) {
      state_->buckets.emplace_back();
      filled = 0;
    }
    filled += static_cast<std::int64_t>(item->second.nbytes());
    state_->buckets.back().parameters.push_back(item->second);
    const std::weak_ptr<State> state = state_;
    const std::size_t bucket = state_->buckets.size() - 1;
    torch::autograd::impl::set_post_acc_grad_hooks(item->second, std::make_unique<ArrivalHook>([state, bucket] {
                                                     if (const auto alive = state.lock()) alive->arrived(bucket);
                                                   }));
  }
}

GradientReducer::~GradientReducer() = default;

void GradientReducer::begin() {
  for (State::Bucket& bucket : state_->buckets) bucket.missing = bucket.parameters.size();
  state_->next = 0;
  state_->active = true;
}

void GradientReducer::finish() {
  const torch::NoGradGuard no_grad;
  state_->active = false;
  while (state_->next < state_->buckets.size()) state_->send(state_->buckets[state_->next++]);
  const double share = 1.0 / static_cast<double>(state_->group->size());
  for (State::Bucket& bucket : state_->buckets) {
    bucket.work->wait();
    bucket.flat.mul_(share);
    std::int64_t offset = 0;
    for (at::Tensor& parameter : bucket.parameters) {
      const at::Tensor mean = bucket.flat.narrow(0, offset, parameter.numel()).view(parameter.sizes());
      offset += parameter.numel();
      if (parameter.grad().defined()) {
        parameter.mutable_grad().copy_(mean);
      } else {
        parameter.mutable_grad() = mean.clone();
      }
    }
    bucket.flat = at::Tensor();
    bucket.work.reset();
  }
}

}  // namespace vmoba::dit
