// SPDX-License-Identifier: Apache-2.0
// Everything of the engine's public interface.
#pragma once

#include "vmoba/attention.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/cost.hpp"
#include "vmoba/error.hpp"
#include "vmoba/execution.hpp"
#include "vmoba/partition.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/preset.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"
#include "vmoba/types.hpp"
#include "vmoba/version.hpp"
