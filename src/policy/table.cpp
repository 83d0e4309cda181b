// SPDX-License-Identifier: Apache-2.0
// The constant table of policies, in the order of the variant Policy.
#include <array>
#include <variant>

#include "policy/policy.hpp"

namespace vmoba::policy {

std::span<const Entry> table() {
  static const std::array<Entry, std::variant_size_v<Policy>> entries{threshold, top_k, dense};
  return entries;
}

const Entry& entry(const Policy& policy) { return table()[policy.index()]; }

}  // namespace vmoba::policy
