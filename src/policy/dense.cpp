// SPDX-License-Identifier: Apache-2.0
// The policy that keeps every pair; no gate is computed.
#include "policy/policy.hpp"

namespace vmoba::policy {

constexpr Entry dense{"Dense",
                      [](const ProblemOptions&) {},
                      token_rows,
                      [](const Problem&) { return true; },
                      [](const Problem&, const ConstView&, const ConstView&, Selection& selection, const Backend&,
                         const Execution&) { selection.fill(true); },
                      {}};

}  // namespace vmoba::policy
