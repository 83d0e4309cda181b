// SPDX-License-Identifier: Apache-2.0
// The commit the program was built from; the definition is written at build time by commit.cmake.
#pragma once

namespace vmoba::tools {
const char* commit();  // short hash, "+" appended when tracked files differed from it; "unknown" outside git
}
