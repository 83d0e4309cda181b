// SPDX-License-Identifier: Apache-2.0
// Named torch tensors to and from safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "io/safetensors.hpp"

namespace vmoba::dit {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Contiguous copies are made where needed. Throws Error(kind file), path untouched.
void save_tensors(const std::string& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata = {});
// A copy of one tensor in its own dtype.
at::Tensor read_tensor(const io::SafetensorsFile& file, const std::string& name);
// Copies values into the given tensors, whose names and shapes must be those of the file exactly; nothing is written
// when one differs. Throws Error(kind file) naming the path, the tensor and both shapes, or a tensor that holds NaN or
// infinity.
void load_tensors(const std::string& path, const NamedTensors& into);
std::string shape_text(at::IntArrayRef shape);  // "[3, 4]"

}  // namespace vmoba::dit
