// SPDX-License-Identifier: Apache-2.0
// Plans: which call a layer makes, JSON both ways, refusals.
#include "dit/model/plan.hpp"

#include <gtest/gtest.h>

#include "dit/model/attention.hpp"
#include "dit/small_model.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

constexpr StepContext training{};
const Grid grid{4, 4, 6};

TEST(Plan, LayersCycleFromFirst) {
  AttentionPlan plan = test::sparse_plan();
  for (std::int64_t first = 0; first < 4; ++first) {
    plan.first = first;
    for (std::int64_t layer = 0; layer < 7; ++layer) {
      EXPECT_EQ(sparse_call(plan, layer, grid, training)->block, plan.cycle[(layer + first) % 3].block);
    }
  }
}

TEST(Plan, ExtentsLargerThanTheGridAreCutToIt) {
  AttentionPlan plan = plan_of(preset("paper-81x480x832"));
  const Grid small{2, 4, 200};
  const auto block = [&](std::int64_t layer) { return sparse_call(plan, layer, small, training)->block; };
  EXPECT_EQ(block(0), (Block{2, full, full}));
  EXPECT_EQ(block(1), (Block{full, 4, 13}));
  EXPECT_EQ(block(2), (Block{2, 4, 13}));
  plan.cycle = {{vmoba::Run{5000}, Threshold{}}};
  EXPECT_EQ(block(0), (Block{vmoba::Run{2 * 4 * 200}}));
}

TEST(Plan, ScheduleAndDensePolicyMakeLayersDense) {
  AttentionPlan plan = test::sparse_plan();
  plan.schedule.dense_layers = {1};
  EXPECT_TRUE(sparse_call(plan, 0, grid, training));
  EXPECT_FALSE(sparse_call(plan, 1, grid, training));
  plan.schedule.min_tokens = 97;  // the grid has 96
  EXPECT_FALSE(sparse_call(plan, 0, grid, training));
  plan.schedule.min_tokens = 96;
  EXPECT_TRUE(sparse_call(plan, 0, grid, training));
  plan.cycle[0].policy = Dense{};
  EXPECT_FALSE(sparse_call(plan, 0, grid, training));
  EXPECT_FALSE(sparse_call(AttentionPlan{}, 2, grid, training));
}

TEST(Plan, AutomaticMinTokensMakeWhatIsTooSmallDense) {
  AttentionPlan plan = test::sparse_plan();
  plan.schedule.min_tokens = Schedule::automatic;
  const Grid large{16, 16, 16}, tiny{2, 2, 2};
  EXPECT_TRUE(sparse_call(plan, 0, large, training));
  EXPECT_FALSE(sparse_call(plan, 0, tiny, training));
  CostModel costs = default_costs("cpu:skylake");
  costs.select.call = 1;  // a machine on which selections take a second
  plan.costs = costs;
  EXPECT_FALSE(sparse_call(plan, 0, large, training));
  plan.costs.reset();
  // Above the crossover density one layer is dense, the others are not.
  plan.cycle[1].policy = Threshold{.tau = 0.99};
  EXPECT_TRUE(sparse_call(plan, 0, large, training));
  EXPECT_FALSE(sparse_call(plan, 1, large, training));

  EXPECT_EQ(parse_plan(to_json(plan)).schedule.min_tokens, Schedule::automatic);
  AttentionPlan resolved = plan;
  resolved.schedule.dense_layers = {0};
  resolve_min_tokens(resolved, 6, large, {}, Schedule::Use::training);
  EXPECT_EQ(resolved.schedule.min_tokens, 0);
  EXPECT_EQ(resolved.schedule.dense_layers, (std::set<std::int64_t>{0, 1, 4}));
  resolved = plan;
  resolve_min_tokens(resolved, 2, tiny, {}, Schedule::Use::sampling);
  EXPECT_EQ(resolved.schedule.dense_layers, (std::set<std::int64_t>{0, 1}));
  plan.schedule.min_tokens = 7;
  resolved = plan;
  resolve_min_tokens(resolved, 6, large, {}, Schedule::Use::training);
  EXPECT_EQ(resolved.schedule, plan.schedule);
}

TEST(Plan, JsonRoundTripKeepsEveryField) {
  AttentionPlan plan;
  plan.dense = false;
  plan.cycle = {{Block{3, full, full}, Threshold{0.375, Scope::query, 2, 7}},
                {vmoba::Run{77}, TopK{5, Scope::all, 1, {}}},
                {Block{1, 2, 3}, Dense{}}};
  plan.first = 2;
  plan.schedule = {0.125, 3, {0, 4}, 1000, 5};
  plan.dense_path = AttentionPlan::DensePath::engine;
  const AttentionPlan back = parse_plan(to_json(plan));
  EXPECT_EQ(to_json(back), to_json(plan));
  EXPECT_EQ(back.cycle, plan.cycle);
  EXPECT_EQ(back.first, plan.first);
  EXPECT_EQ(back.schedule, plan.schedule);
  EXPECT_EQ(back.dense_path, plan.dense_path);
  EXPECT_FALSE(back.dense);
}

TEST(Plan, PresetsAndDenseByName) {
  const AttentionPlan named = parse_plan("\"paper-81x480x832\"");
  EXPECT_EQ(to_json(named), to_json(plan_of(preset("paper-81x480x832"))));
  const AttentionPlan changed = parse_plan(R"({"preset": "paper-81x480x832", "schedule": {"refresh": 4}})");
  EXPECT_EQ(changed.cycle, named.cycle);
  EXPECT_EQ(changed.schedule.refresh, 4);
  EXPECT_EQ(changed.schedule.dense_fraction, named.schedule.dense_fraction);
  EXPECT_TRUE(parse_plan("null").dense);
  EXPECT_TRUE(parse_plan("\"dense\"").dense);
  EXPECT_TRUE(parse_plan("{}").dense);
}

class BadPlan : public testing::TestWithParam<const char*> {};

TEST_P(BadPlan, IsRefused) {
  try {
    parse_plan(GetParam());
    FAIL() << GetParam();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::argument) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadPlan,
    testing::Values("", "{", "3", "[]", "\"nothing\"", R"({"cycle": []})", R"({"cycle": {}})", R"({"cycle": [3]})",
                    R"({"preset": 3})", R"({"dense": 1})", R"({"more": 1})", R"({"cycle": [{"block": [1, 2, 0]}]})",
                    R"({"cycle": [{"block": [1, 2, -2]}]})", R"({"cycle": [{"block": [1, 2, 1.5]}]})",
                    R"({"cycle": [{"block": {"run": 0}}]})", R"({"cycle": [{"block": {}}]})",
                    R"({"cycle": [{}], "first": -1})", R"({"cycle": [{}], "first": 18446744073709551615})",
                    R"({"cycle": [{"policy": {}}]})", R"({"cycle": [{"policy": {"name": "best"}}]})",
                    R"({"cycle": [{"policy": {"name": "topk", "amount": 0}}]})",
                    R"({"cycle": [{"policy": {"name": "topk", "scope": "block"}}]})",
                    R"({"cycle": [{"policy": {"name": "threshold", "min_blocks": 0}}]})",
                    R"({"cycle": [{}], "schedule": {"dense_fraction": 1.5}})",
                    R"({"cycle": [{}], "schedule": {"dense_steps": -1}})",
                    R"({"cycle": [{}], "schedule": {"min_tokens": -1}})",
                    R"({"cycle": [{}], "schedule": {"refresh": 0}})", R"({"dense_path": "fast"})"));

TEST(Plan, MeasuringTheDensePathNeverAnswersAutomatic) {
  for (const bool training : {false, true}) {
    for (const std::int64_t dim : {6, 24}) {  // 6: no kernel's head dim, only the reference takes it
      EXPECT_NE(measure_dense_path(1, 64, 2, dim, at::kFloat, training), AttentionPlan::DensePath::automatic);
    }
  }
}

}  // namespace
}  // namespace vmoba::dit
