// SPDX-License-Identifier: Apache-2.0
// Interrupts for verbs that have something to finish first: the first is noted, the second ends the program at once.
#pragma once

#include <initializer_list>

namespace vmoba::tools {

// From here on these signals are noted; none has come yet.
void watch_interrupts(std::initializer_list<int> signals);
bool interrupted();

}  // namespace vmoba::tools
