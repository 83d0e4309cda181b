// SPDX-License-Identifier: Apache-2.0
// Flow matching and its random numbers: known values of diffusers, distributions, independence of threads.
#include "dit/train/flow.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dit/train/noise.hpp"
#include "support/errors.hpp"

namespace vmoba::dit {
namespace {

TEST(Flow, EulerTimesAreThoseOfDiffusers) {
  // FlowMatchEulerDiscreteScheduler(shift).set_timesteps(n).sigmas, diffusers 0.42.1.
  const auto expect = [](std::int64_t steps, double shift, const std::vector<double>& sigmas) {
    const std::vector<double> times = euler_times(steps, shift);
    ASSERT_EQ(times.size(), sigmas.size());
    for (std::size_t i = 0; i < times.size(); ++i) EXPECT_NEAR(times[i], sigmas[i], 2e-7) << i;
  };
  expect(5, 3, {1.0, 0.9003590941429138, 0.7511211037635803, 0.5029850602149963, 0.008928571827709675, 0.0});
  expect(4, 5, {1.0, 0.9097071290016174, 0.7173174619674683, 0.0244140662252903, 0.0});
  expect(3, 1, {1.0, 0.5005000233650208, 0.0010000000474974513, 0.0});
  expect(1, 3, {1.0, 0.0});
}

TEST(Flow, WanTimesAreThoseOfItsPipeline) {
  // UniPCMultistepScheduler(use_flow_sigmas, flow_shift 3).set_timesteps(5).sigmas; its first is 1 - 1e-6.
  const std::vector<double> sigmas{0.9999989867210388, 0.9231656789779663, 0.8184296488761902,
                                   0.6672218441963196, 0.4297945201396942, 0.0};
  const std::vector<double> times = wan_times(5, 3);
  ASSERT_EQ(times.size(), sigmas.size());
  for (std::size_t i = 0; i < times.size(); ++i) EXPECT_NEAR(times[i], sigmas[i], 2e-6) << i;
}

TEST(Flow, NoisedAndTargetAreConsistent) {
  const at::Tensor x0 = normal_tensor({2, 3, 2, 4, 5}, {1, Purpose::sampling, 0});
  const at::Tensor noise = normal_tensor({2, 3, 2, 4, 5}, {1, Purpose::sampling, 1});
  const at::Tensor s = torch::tensor({0.25F, 1.0F});
  const at::Tensor x = noised(x0, noise, s), velocity = flow_target(x0, noise);
  // One exact Euler step from s to 0 gives the clip, to 1 the noise.
  const at::Tensor times = s.view({2, 1, 1, 1, 1});
  EXPECT_TRUE(at::allclose(x - times * velocity, x0, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(x + (1 - times) * velocity, noise, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(x[1], noise[1]));
}

TEST(Flow, TrainingTimesFollowTheirDistribution) {
  for (const FlowOptions::Times kind : {FlowOptions::Times::logit_normal, FlowOptions::Times::uniform}) {
    const FlowOptions options{.times = kind, .shift = 3};
    std::vector<double> drawn;
    for (std::uint64_t i = 0; i < 4000; ++i) drawn.push_back(training_time(options, 7, i));
    std::sort(drawn.begin(), drawn.end());
    // The validation times are quantiles of the same distribution: Kolmogorov-Smirnov, 0.1 % level 1.95 / sqrt(4000).
    const std::vector<double> quantiles = validation_times(options, 200);
    for (std::size_t i = 0; i < quantiles.size(); ++i) {
      const auto below = std::lower_bound(drawn.begin(), drawn.end(), quantiles[i]) - drawn.begin();
      EXPECT_NEAR(static_cast<double>(below) / 4000, (static_cast<double>(i) + 0.5) / 200, 0.031);
    }
    EXPECT_GT(drawn.front(), 0);
    EXPECT_LT(drawn.back(), 1);
  }
  EXPECT_NE(training_time({}, 7, 0), training_time({}, 8, 0));
  EXPECT_NE(training_time({}, 7, 0), training_time({}, 7, 1));
  EXPECT_EQ(training_time({}, 7, 5), training_time({}, 7, 5));
}

TEST(Flow, RefusesWhatItCannotFollow) {
  test::expect_argument_error("steps", "0", "at least 1", "50", [] { euler_times(0, 3); });
  test::expect_argument_error("shift", "-1.000000", "positive", "3", [] { euler_times(5, -1); });
  test::expect_argument_error("times", "gauss", "distribution", "uniform", [] { parse_times("gauss"); });
}

TEST(Noise, SameBitsForAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  std::vector<at::Tensor> drawn;
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    drawn.push_back(normal_tensor({16, 7, 41, 43}, {3, Purpose::sampling, 9}));
  }
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(drawn[0], drawn[1]));
  EXPECT_TRUE(at::equal(drawn[0], drawn[2]));
}

TEST(Noise, IsStandardNormalAndStreamsAreApart) {
  const at::Tensor a = normal_tensor({200001}, {3, Purpose::sampling, 9}).to(at::kDouble);
  EXPECT_NEAR(a.mean().item<double>(), 0, 0.01);
  EXPECT_NEAR(a.var().item<double>(), 1, 0.02);
  EXPECT_NEAR(a.pow(4).mean().item<double>(), 3, 0.15);
  EXPECT_NEAR((a.abs() < 1).to(at::kDouble).mean().item<double>(), 0.6827, 0.005);
  const at::Tensor shift = a.slice(0, 1), kept = a.slice(0, 0, -1);
  EXPECT_NEAR((shift * kept).mean().item<double>(), 0, 0.01);
  for (const Stream other :
       {Stream{4, Purpose::sampling, 9}, Stream{3, Purpose::weights, 9}, Stream{3, Purpose::sampling, 10}}) {
    const at::Tensor b = normal_tensor({200001}, other).to(at::kDouble);
    EXPECT_FALSE(at::equal(a, b));
    EXPECT_NEAR((a * b).mean().item<double>(), 0, 0.01);
  }
  // A shorter tensor is the beginning of a longer one: the number of values does not matter to each.
  EXPECT_TRUE(at::equal(normal_tensor({17}, {3, Purpose::sampling, 9}), a.slice(0, 0, 17).to(at::kFloat)));
  EXPECT_EQ(normal({3, Purpose::sampling, 9}, 4), normal({3, Purpose::sampling, 9}, 4));
  EXPECT_NEAR(normal({3, Purpose::sampling, 9}, 4), a[4].item<double>(), 1e-6);
}

}  // namespace
}  // namespace vmoba::dit
