// SPDX-License-Identifier: Apache-2.0
// Element types, and the exact conversions of the 16-bit ones.
#include "vmoba/types.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "check/tensors.hpp"
#include "float16.hpp"

namespace vmoba {
namespace {

TEST(Types, NamesAndSizes) {
  EXPECT_EQ(name(DType::f32), "f32");
  EXPECT_EQ(name(DType::bf16), "bf16");
  EXPECT_EQ(name(DType::f16), "f16");
  EXPECT_EQ(name(DType::f64), "f64");
  EXPECT_EQ(bytes_of(DType::f32), 4);
  EXPECT_EQ(bytes_of(DType::bf16), 2);
  EXPECT_EQ(bytes_of(DType::f16), 2);
  EXPECT_EQ(bytes_of(DType::f64), 8);
}

template <class Half>
class Float16 : public testing::Test {};
using Halves = testing::Types<bf16, f16>;
TYPED_TEST_SUITE(Float16, Halves);

TYPED_TEST(Float16, EveryPatternSurvivesTheWayThereAndBack) {
  for (int bits = 0; bits < 65536; ++bits) {
    const TypeParam half{static_cast<std::uint16_t>(bits)};
    const double value = to_double(half);
    const TypeParam back = from_double<TypeParam>(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(to_double(back)));
    } else {
      ASSERT_EQ(back.bits, half.bits) << value;
    }
  }
}

TYPED_TEST(Float16, RoundsToNearestAndTiesToEven) {
  for (int bits = 0; bits < 0x7fff; ++bits) {
    const TypeParam low{static_cast<std::uint16_t>(bits)}, high{static_cast<std::uint16_t>(bits + 1)};
    const double a = to_double(low), b = to_double(high);
    if (!std::isfinite(b)) break;
    const double middle = (a + b) / 2;  // exact in double
    ASSERT_EQ(from_double<TypeParam>(middle).bits, bits % 2 == 0 ? low.bits : high.bits) << middle;
    ASSERT_EQ(from_double<TypeParam>(std::nextafter(middle, a)).bits, low.bits);
    ASSERT_EQ(from_double<TypeParam>(std::nextafter(middle, b)).bits, high.bits);
    ASSERT_EQ(from_double<TypeParam>(-middle).bits, (bits % 2 == 0 ? low.bits : high.bits) | 0x8000);
  }
}

TYPED_TEST(Float16, OverflowGoesToInfinityAndTinyToZero) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(to_double(from_double<TypeParam>(1e300)), infinity);
  EXPECT_EQ(to_double(from_double<TypeParam>(-1e300)), -infinity);
  EXPECT_EQ(to_double(from_double<TypeParam>(infinity)), infinity);
  EXPECT_EQ(from_double<TypeParam>(1e-300).bits, 0);
  EXPECT_EQ(from_double<TypeParam>(-0.0).bits, 0x8000);
  EXPECT_EQ(from_double<TypeParam>(5e-324).bits, 0);
}

TEST(Float16, KnownValues) {
  EXPECT_EQ(from_double<f16>(65504).bits, 0x7bff);
  EXPECT_EQ(from_double<f16>(65519.99).bits, 0x7bff);
  EXPECT_EQ(from_double<f16>(65520).bits, 0x7c00);
  EXPECT_EQ(from_double<f16>(0x1p-24).bits, 1);
  EXPECT_EQ(from_double<f16>(0x1p-25).bits, 0);
  EXPECT_EQ(from_double<f16>(0x1.000002p-25).bits, 1);
  EXPECT_EQ(from_double<bf16>(1.0).bits, 0x3f80);
  EXPECT_EQ(from_double<bf16>(1.00390625).bits, 0x3f80);  // halfway, to even
  // Through float this would first become 1.00390625 and then round down.
  EXPECT_EQ(from_double<bf16>(1.00390625 + 0x1p-40).bits, 0x3f81);
}

TEST(TestTensor, KeepsValuesAndSeesGapsWritten) {
  test::Rng rng(1);
  test::Tensor t(DType::f32, 2, 3, 2, 4, test::Layout::padded);
  t.fill_normal(rng);
  EXPECT_TRUE(t.gaps_untouched());
  const test::Tensor copy = t.to(DType::f64);
  EXPECT_EQ(copy.doubles(), t.doubles());
  static_cast<float*>(t.view().data)[4] = 0;  // the gap after head 0
  EXPECT_FALSE(t.gaps_untouched());
}

}  // namespace
}  // namespace vmoba
