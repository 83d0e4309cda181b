// SPDX-License-Identifier: Apache-2.0
// The gate kernels of every tier this machine runs, one by one, against plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check/problems.hpp"
#include "cpu/select_sample.hpp"
#include "cpu/tier.hpp"
#include "float16.hpp"

namespace vmoba::test {
namespace {

using namespace cpu;
constexpr float inf = std::numeric_limits<float>::infinity();

std::vector<std::string> tiers() {
  std::vector<std::string> names;
  for (const Backend& backend : backends()) {
    if (backend.name.starts_with("cpu:") && backend.unavailable().empty()) names.emplace_back(backend.name);
  }
  return names;
}

const GateKernels& kernels_of(const std::string& name) {
#if defined(__x86_64__)
  if (name == "cpu:haswell") return haswell_tier.gate;
  if (name != "cpu:generic") return skylake_tier.gate;  // the tiers above it make gates as it does
#endif
  return generic_tier.gate;
}

class Gate : public testing::TestWithParam<std::string> {
 protected:
  const GateKernels& kernels() const { return kernels_of(GetParam()); }
  bool fused() const { return GetParam() != "cpu:generic"; }
};

bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

// A gate is one chain over D, whatever the tile it is made in; rows and strips that were not asked for stay as they
// are.
TEST_P(Gate, GatesAreOneChain) {
  Rng rng(1);
  for (const std::int64_t dim : {8, 24, 64, 200}) {
    for (const std::int64_t strips : {1, 2, 3, 4, 5, 7}) {
      for (const std::int64_t rows : {1, 2, 3, 5, 6, 7, 11, 12, 59, 60, 61, 62, 63, 64}) {
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
          const std::int64_t stride = 2 * dim;
          std::vector<float> values(static_cast<std::size_t>(gate_rows * stride));
          std::vector<std::uint16_t> halves(values.size());
          for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = static_cast<float>(rng.normal());
            if (dtype == DType::f32) continue;
            halves[i] = dtype == DType::bf16 ? from_double<bf16>(values[i]).bits : from_double<f16>(values[i]).bits;
            values[i] =
                static_cast<float>(dtype == DType::bf16 ? to_double(bf16{halves[i]}) : to_double(f16{halves[i]}));
          }
          const Buffer<float> panels(strips * dim * gate_strip), widened(gate_rows * dim);
          const Buffer<float> gates((strips + 1) * gate_rows * gate_strip);
          for (std::int64_t i = 0; i < strips * dim * gate_strip; ++i) panels[i] = static_cast<float>(rng.normal());
          std::fill_n(gates.data(), (strips + 1) * gate_rows * gate_strip, 77.0f);
          const bool half = dtype != DType::f32;
          const auto* const q =
              half ? reinterpret_cast<const char*>(halves.data()) : reinterpret_cast<const char*>(values.data());
          GateTile tile{.q = q,
                        .dtype = static_cast<int>(dtype),
                        .token_stride = stride,
                        .rows = rows,
                        .dim = dim,
                        .panels = panels.data(),
                        .strips = strips,
                        .widened = widened.data(),
                        .gates = gates.data()};
          kernels().gates(tile);
          tile.q = nullptr;  // from the rows it left in `widened`
          std::fill_n(gates.data(), strips * gate_rows * gate_strip, 77.0f);
          kernels().gates(tile);
          for (std::int64_t c = 0; c < strips * gate_strip; ++c) {
            for (std::int64_t row = 0; row < rows; ++row) {
              float sum = 0;
              for (std::int64_t d = 0; d < dim; ++d) {
                const float one = values[row * stride + d],
                            mean = panels[(c / gate_strip * dim + d) * gate_strip + c % gate_strip];
                sum = fused() ? std::fma(one, mean, sum) : sum + one * mean;
              }
              ASSERT_TRUE(same_bits(gates[gate_place(row, c)], sum))
                  << "row " << row << " of " << rows << " column " << c << " dim " << dim << " " << name(dtype);
            }
          }
          for (std::int64_t i = 0; i < gate_rows * gate_strip; ++i)
            ASSERT_EQ(gates[strips * gate_rows * gate_strip + i], 77.0f);
        }
      }
    }
  }
}

TEST_P(Gate, MeansAreRoundedOnce) {
  Rng rng(2);
  for (const std::int64_t dim : {8, 24, 72, 128}) {
    for (const std::int64_t count : {1, 2, 3, 4, 5, 7, 8, 9, 30}) {
      const std::int64_t stride = dim + 8;
      std::vector<float> k(static_cast<std::size_t>(64 * stride), NAN);  // rows of other blocks
      std::vector<std::int32_t> rows;
      for (std::int64_t i = 0; i < count; ++i) rows.push_back(static_cast<std::int32_t>((i * 37 + 5) % 64));
      for (const std::int32_t row : rows) {
        for (std::int64_t d = 0; d < dim; ++d)
          k[row * stride + d] = static_cast<float>(rng.normal() * std::exp2(rng.integer(-20, 20)));
      }
      std::vector<double> sums(static_cast<std::size_t>(dim), NAN);
      std::vector<float> mean(static_cast<std::size_t>(dim), NAN);
      kernels().mean(k.data(), 0, stride, rows.data(), count, dim, sums.data(), mean.data());
      for (std::int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (const std::int32_t row : rows) sum += k[row * stride + d];
        ASSERT_TRUE(same_bits(mean[d], static_cast<float>(sum / static_cast<double>(count))))
            << "d " << d << " of " << dim << " count " << count;
      }
    }
  }
}

// Few values, so that many gates lie on the edges of the brackets; infinities and NaN among them; brackets that no gate
// meets.
TEST_P(Gate, EmitsBitsSumsAndLists) {
  Rng rng(3);
  for (const std::int64_t strips : {1, 2, 3}) {
    for (const std::int64_t rows : {1, 2, 31, 32, 33, 63, 64}) {
      for (int kind = 0; kind < 4; ++kind) {
        const std::int64_t columns = strips * gate_strip, first = 5 * gate_strip;
        const Buffer<float> gates(strips * gate_rows * gate_strip), lo(columns), hi(columns),
            values(columns * gate_rows + gate_strip);
        const Buffer<std::uint64_t> words(columns);
        const Buffer<std::uint32_t> places(columns * gate_rows + gate_strip);
        const Buffer<double> sums(columns);
        const Buffer<std::int64_t> counts(columns);
        for (std::int64_t i = 0; i < strips * gate_rows * gate_strip; ++i) {
          const std::int64_t any = rng.integer(0, 40);
          gates[i] = any == 0 && kind == 1   ? inf
                     : any == 1 && kind == 1 ? NAN
                     : any < 4               ? -inf
                                             : static_cast<float>(any % 8);
        }
        for (std::int64_t c = 0; c < columns; ++c) {
          lo[c] = kind == 2 ? NAN : static_cast<float>(rng.integer(0, 6));
          hi[c] = kind == 2 ? NAN : kind == 3 ? lo[c] : lo[c] + static_cast<float>(rng.integer(0, 3));
          words[c] = ~std::uint64_t{0};
          sums[c] = 0.5;
          counts[c] = 3;
        }
        const std::int64_t found = kernels().emit({.gates = gates.data(),
                                                   .strips = strips,
                                                   .rows = rows,
                                                   .column = first,
                                                   .lo = lo.data(),
                                                   .hi = hi.data(),
                                                   .words = words.data(),
                                                   .sums = sums.data(),
                                                   .counts = counts.data(),
                                                   .values = values.data(),
                                                   .places = places.data()});
        std::vector<std::pair<std::uint32_t, float>> list, wanted;
        for (std::int64_t i = 0; i < found; ++i) list.emplace_back(places[i], values[i]);
        for (std::int64_t c = 0; c < columns; ++c) {
          std::uint64_t word = 0;
          double sum = 0.5;
          std::int64_t count = 3;
          for (std::int64_t row = 0; row < rows; ++row) {
            const float gate = gates[gate_place(row, c)];
            if (gate > hi[c]) {
              word |= std::uint64_t{1} << row;
              sum += gate;
              ++count;
            } else if (gate >= lo[c]) {
              wanted.emplace_back(static_cast<std::uint32_t>((first + c) * gate_rows + row), gate);
            }
          }
          ASSERT_EQ(words[c], word) << "column " << c << " rows " << rows << " kind " << kind;
          ASSERT_EQ(sums[c], sum);
          ASSERT_EQ(counts[c], count);
        }
        std::sort(list.begin(), list.end());
        std::sort(wanted.begin(), wanted.end());
        ASSERT_EQ(list, wanted) << "rows " << rows << " kind " << kind;
      }
    }
  }
}

// The brackets of 64 rows hold their cuts: what lies above is less than is needed, with what lies inside it is enough;
// numbers, bits and lists agree with them.
TEST_P(Gate, BracketsOfRowsHoldTheirCuts) {
  Rng rng(4);
  for (const std::int64_t blocks : {1, 2, 3, 5, 16, 17, 63, 144}) {
    for (const bool by_count : {false, true}) {
      for (const std::int64_t kinds : {0, 1, 3}) {  // of values: 0 any, 1 all equal
        const std::int64_t strips = (blocks + gate_strip - 1) / gate_strip, columns = strips * gate_strip,
                           lanes = kernels().lanes;
        const Buffer<float> gates(columns * gate_rows), turned(columns * gate_rows),
            values(columns * gate_rows + gate_strip);
        const Buffer<float> least(64), greatest(64), needed(64), lo(64), hi(64), above(64);
        const Buffer<double> sums(64), above_sums(64);
        const Buffer<std::uint64_t> words(columns);
        const Buffer<std::uint32_t> places(columns * gate_rows + gate_strip);
        for (std::int64_t i = 0; i < columns * gate_rows; ++i) {
          gates[i] = static_cast<float>(kinds == 0 ? rng.normal() : static_cast<double>(rng.integer(1, kinds)));
        }
        const GateQueries queries{.gates = gates.data(),
                                  .strips = strips,
                                  .blocks = blocks,
                                  .turned = turned.data(),
                                  .least = least.data(),
                                  .greatest = greatest.data(),
                                  .sums = sums.data(),
                                  .by_count = by_count,
                                  .needed = needed.data(),
                                  .lo = lo.data(),
                                  .hi = hi.data(),
                                  .words = words.data(),
                                  .above = above.data(),
                                  .above_sums = above_sums.data(),
                                  .values = values.data(),
                                  .places = places.data()};
        kernels().turn(queries);
        for (std::int64_t row = 0; row < gate_rows; ++row) {
          const std::int64_t own = row % blocks;
          needed[row] =
              by_count ? static_cast<float>(rng.integer(0, blocks - 1))
                       : static_cast<float>(rng.uniform() * (sums[row] - static_cast<double>(blocks) * least[row]) / 2);
          if (row == 7) needed[row] = 0;
          turned[(row / lanes * columns + own) * lanes + row % lanes] = -inf;
        }
        const std::int64_t found = kernels().bracket(queries);
        std::vector<std::pair<std::uint32_t, float>> list, wanted;
        for (std::int64_t i = 0; i < found; ++i) list.emplace_back(places[i], values[i]);
        for (std::int64_t row = 0; row < gate_rows; ++row) {
          double sum = 0, weight = 0, inside = 0;
          std::int64_t count = 0, listed = 0;
          for (std::int64_t c = 0; c < blocks; ++c) {
            const float gate = c == row % blocks ? -inf : gates[gate_place(row, c)];
            const bool is_above = gate > hi[row], is_inside = gate >= lo[row] && !is_above;
            ASSERT_EQ(words[c] >> row & 1, is_above) << "row " << row << " block " << c << " of " << blocks;
            if (is_above) ++count, sum += gate, weight += static_cast<double>(gate) - least[row];
            if (is_inside)
              ++listed, inside += static_cast<double>(gate) - least[row],
                  wanted.emplace_back(static_cast<std::uint32_t>(c * gate_rows + row), gate);
          }
          ASSERT_EQ(above[row], static_cast<float>(count));
          ASSERT_EQ(above_sums[row], sum);
          const double have = by_count ? static_cast<double>(count) : weight,
                       rest = by_count ? static_cast<double>(listed) : inside;
          const double close = 1e-4 * (1 + std::abs(static_cast<double>(needed[row])));
          EXPECT_TRUE(count + listed > 0 || blocks == 1) << "row " << row << " of blocks " << blocks;  // one at least
          EXPECT_TRUE(count == 0 || have < needed[row] + close) << "row " << row << " of blocks " << blocks;
          EXPECT_TRUE(have + rest > needed[row] - close || lo[row] <= least[row])
              << "row " << row << " of blocks " << blocks;
        }
        std::sort(list.begin(), list.end());
        std::sort(wanted.begin(), wanted.end());
        ASSERT_EQ(list, wanted) << blocks << " blocks";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, Gate, testing::ValuesIn(tiers()),
                         [](const auto& info) { return info.param.substr(info.param.find(':') + 1); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Gate);

}  // namespace
}  // namespace vmoba::test
