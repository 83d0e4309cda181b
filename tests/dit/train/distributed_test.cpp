// SPDX-License-Identifier: Apache-2.0
// Two local processes over Gloo against one: data parallel and Ulysses give the same losses to fp32 rounding.
#include "dit/train/distributed.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "dit/small_run.hpp"
#include "dit/train/noise.hpp"
#include "dit/train/trainer.hpp"
#include "io/temporary.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

using test::read_metrics;
using test::small_run;
using test::TemporaryFolder;

int free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(descriptor);
  return ntohs(address.sin_port);
}

// Runs `worker` of this program in two processes as torchrun would; returns their exit codes.
std::vector<int> run_two(const std::string& worker, const std::string& out) {
  const std::string port = std::to_string(free_port());
  std::vector<pid_t> children;
  for (const char* rank : {"0", "1"}) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("WORLD_SIZE", "2", 1);
      ::setenv("RANK", rank, 1);
      ::setenv("MASTER_ADDR", "127.0.0.1", 1);
      ::setenv("MASTER_PORT", port.c_str(), 1);
      ::setenv("OMP_NUM_THREADS", "1", 1);
      ::setenv("VMOBA_TEST_OUT", out.c_str(), 1);
      const std::string filter = "--gtest_filter=DistributedWorker.DISABLED_" + worker;
      const char* const arguments[] = {"worker", filter.c_str(), "--gtest_also_run_disabled_tests", "--gtest_brief=1",
                                       nullptr};
      ::execv("/proc/self/exe", const_cast<char* const*>(arguments));
      ::_exit(127);
    }
    children.push_back(child);
  }
  // A rank that fails leaves the other waiting for it: that one is ended.
  std::vector<int> codes(2, -1);
  for (int left = 2; left > 0; --left) {
    int status = 0;
    const pid_t ended = ::wait(&status);
    const std::size_t rank = ended == children[0] ? 0 : 1;
    codes[rank] = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (codes[rank] != 0) ::kill(children[1 - rank], SIGKILL);
  }
  return codes;
}

std::string test_out() {
  const char* const out = std::getenv("VMOBA_TEST_OUT");
  return out == nullptr ? "" : out;
}

// Both accumulate twice, so that gradients of a pass that is not sent are tested too; buckets are the default.
TrainOptions run_options(const std::string& out) {
  TrainOptions options = small_run(out);
  options.steps = 4;
  options.accumulate = 2;
  options.validate_every = 2;
  return options;
}

void worker(std::int64_t sequence_parallel, void (*change)(TrainOptions&) = nullptr) {
  TrainOptions options = run_options(test_out());
  options.sequence_parallel = sequence_parallel;
  options.data.crop = {3, 4, 7};  // 84 tokens, divisible by 2
  if (change != nullptr) change(options);
  const auto group = Group::from_environment(options.sequence_parallel);
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(Trainer(options, {}, group).run().outcome, TrainResult::Outcome::finished);
}

TEST(DistributedWorker, DISABLED_Data) { worker(1); }
TEST(DistributedWorker, DISABLED_Ulysses) { worker(2); }

std::string refusal(const std::shared_ptr<Group>& group, void (*change)(TrainOptions&)) {
  TrainOptions options = run_options(test_out());
  options.sequence_parallel = group->sequence_size();
  change(options);
  return test::message_of(Error::Kind::argument, [&] { Trainer(options, {}, group); });
}

TEST(DistributedWorker, DISABLED_RefuseData) {
  const std::string batch = refusal(Group::from_environment(1), [](TrainOptions& o) { o.batch = 3; });
  EXPECT_NE(batch.find("use 2 or 4"), std::string::npos) << batch;
}

TEST(DistributedWorker, DISABLED_RefuseUlysses) {
  const auto group = Group::from_environment(2);
  const std::string tokens = refusal(group, [](TrainOptions& o) { o.data.crop = {3, 5, 7}; });
  EXPECT_NE(tokens.find("105 tokens"), std::string::npos) << tokens;
  EXPECT_NE(tokens.find("use one of 1"), std::string::npos) << tokens;
  const std::string heads = refusal(group, [](TrainOptions& o) {
    o.data.crop = {3, 4, 7};
    o.model.num_attention_heads = 3;
  });
  EXPECT_NE(heads.find("3 heads"), std::string::npos) << heads;
}

// The exchanges of Ulysses, and that their gradients are their inverses.
TEST(DistributedWorker, DISABLED_Exchange) {
  const auto group = Group::from_environment(2);
  const auto parallel = group->sequence_parallel();
  const at::Tensor whole = normal_tensor({2, 6, 4, 3}, {1, Purpose::sampling, 0});  // [B, S, H, D]
  const std::int64_t rank = group->rank();
  const at::Tensor mine = whole.narrow(1, 3 * rank, 3).clone().requires_grad_();
  const at::Tensor heads = parallel->tokens_to_heads(mine);
  EXPECT_TRUE(at::equal(heads, whole.narrow(2, 2 * rank, 2)));
  const at::Tensor back = parallel->heads_to_tokens(heads * heads);
  EXPECT_TRUE(at::equal(back, mine * mine));
  back.sum().backward();
  EXPECT_TRUE(at::equal(mine.grad(), 2 * mine));
  const at::Tensor rows = whole.view({2, 6, 12}).narrow(1, 3 * rank, 3).clone().requires_grad_();
  const at::Tensor gathered = parallel->gather_tokens(rows);
  EXPECT_TRUE(at::equal(gathered, whole.view({2, 6, 12})));
  (gathered * static_cast<double>(rank + 1)).sum().backward();
  EXPECT_TRUE(at::equal(rows.grad(), at::full_like(rows, 3)));  // the sum over ranks of 1 and 2
}

void expect_same_losses(const std::string& one, const std::string& two) {
  const test::Lines a = read_metrics(one), b = read_metrics(two);
  ASSERT_EQ(a.steps.size(), 4U);
  ASSERT_EQ(b.steps.size(), 4U);
  ASSERT_EQ(a.validations.size(), b.validations.size());
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    const double loss = a.steps[i]["loss"], norm = a.steps[i]["gradient_norm"];
    EXPECT_NEAR(b.steps[i]["loss"].get<double>(), loss, 2e-6 * loss) << i;
    EXPECT_NEAR(b.steps[i]["gradient_norm"].get<double>(), norm, 2e-5 * norm) << i;
  }
  for (std::size_t i = 0; i < a.validations.size(); ++i) {
    const double loss = a.validations[i]["validation_loss"];
    EXPECT_NEAR(b.validations[i]["validation_loss"].get<double>(), loss, 1e-5 * loss) << i;
  }
}

TEST(Distributed, TwoProcessesTrainAsOne) {
  const TemporaryFolder folder;
  TrainOptions alone = run_options(folder / "one");
  alone.data.crop = {3, 4, 7};
  Trainer(alone, {}).run();
  for (const char* worker : {"Data", "Ulysses"}) {
    const std::string out = folder / worker;
    EXPECT_EQ(run_two(worker, out), (std::vector<int>{0, 0})) << worker;
    expect_same_losses(alone.out, out);
  }
}

TEST(Distributed, ExchangesAndTheirGradients) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_two("Exchange", folder / "x"), (std::vector<int>{0, 0}));
}

TEST(Distributed, WhatDoesNotDivideIsRefusedWithTheNumberToUse) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_two("RefuseData", folder / "x"), (std::vector<int>{0, 0}));
  EXPECT_EQ(run_two("RefuseUlysses", folder / "x"), (std::vector<int>{0, 0}));
  test::expect_argument_error("sequence-parallel", "3", "divide the 4 processes", "1, 2, 4",
                              [] { Group("127.0.0.1", 1, 0, 4, 3); });
  test::expect_argument_error("sequence-parallel", "2", "as many processes", "torchrun",
                              [] { Group::from_environment(2); });
}

}  // namespace
}  // namespace vmoba::dit
