// SPDX-License-Identifier: Apache-2.0
// From a run-time value to a template argument, without macros.
#pragma once

#include <type_traits>

#include "vmoba/error.hpp"
#include "vmoba/types.hpp"

namespace vmoba {

template <auto... Vs>
struct values {};
template <auto V>
using constant = std::integral_constant<decltype(V), V>;

// Calls f(constant<value>{}) for the value among Vs; anything else is refused.
template <auto... Vs, class F>
void dispatch(values<Vs...>, auto value, const char* what, F&& f) {
  const bool found = ((value == Vs && (f(constant<Vs>{}), true)) || ...);
  if (!found) throw_argument(what, std::to_string(static_cast<long long>(value)), "is not among the known ones", "");
}

template <DType dtype>
struct element_of;
template <>
struct element_of<DType::f32> {
  using type = float;
};
template <>
struct element_of<DType::bf16> {
  using type = bf16;
};
template <>
struct element_of<DType::f16> {
  using type = f16;
};
template <>
struct element_of<DType::f64> {
  using type = double;
};

// Calls f with a null pointer of the element type: dispatch_dtype(d, [&](auto* e) { using Element = remove_pointer...
// }).
template <class F>
void dispatch_dtype(DType dtype, F&& f) {
  dispatch(values<DType::f32, DType::bf16, DType::f16, DType::f64>{}, dtype, "dtype",
           [&](auto d) { f(static_cast<typename element_of<d()>::type*>(nullptr)); });
}

}  // namespace vmoba
