// SPDX-License-Identifier: Apache-2.0
// Named torch tensors to and from safetensors files.
#include "dit/train/tensors.hpp"

#include <torch/torch.h>

#include <array>
#include <cstring>
#include <string_view>

#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

struct DTypeName {
  std::string_view name;
  at::ScalarType type;
};
constexpr std::array dtype_names{DTypeName{"F32", at::kFloat}, DTypeName{"BF16", at::kBFloat16},
                                 DTypeName{"F16", at::kHalf},  DTypeName{"F64", at::kDouble},
                                 DTypeName{"I64", at::kLong},  DTypeName{"I32", at::kInt},
                                 DTypeName{"U8", at::kByte},   DTypeName{"BOOL", at::kBool}};

}  // namespace

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void save_tensors(const std::string& path, const NamedTensors& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> kept;
  std::vector<io::TensorData> data;
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.detach().cpu().contiguous());
    std::string_view dtype;
    for (const DTypeName& entry : dtype_names) {
      if (entry.type == kept.back().scalar_type()) dtype = entry.name;
    }
    if (dtype.empty()) {
      throw_argument(name, c10::toString(kept.back().scalar_type()),
                     "is a dtype that safetensors files here do not hold", "convert it to float first");
    }
    data.push_back({name, std::string(dtype), kept.back().sizes().vec(), kept.back().data_ptr()});
  }
  io::write_safetensors(path, data, metadata);
}

at::Tensor read_tensor(const io::SafetensorsFile& file, const std::string& name) {
  const io::TensorInfo& info = file.info(name);
  for (const DTypeName& entry : dtype_names) {
    if (entry.name != info.dtype) continue;
    at::Tensor tensor = at::empty(info.shape, entry.type);
    if (tensor.numel() > 0) std::memcpy(tensor.data_ptr(), file.data(name), info.end - info.begin);
    return tensor;
  }
  throw_file(file.path(), "holds tensor " + name + " of dtype " + info.dtype + ", which is not read here",
             "use float tensors (F32, BF16, F16)");
}

void load_tensors(const std::string& path, const NamedTensors& into) {
  const io::SafetensorsFile file(path);
  for (const auto& [name, tensor] : into) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end()) {
      throw_file(path, "lacks tensor " + name + " of shape " + shape_text(tensor.sizes()),
                 "use a file written for this model");
    }
    if (found->second.shape != tensor.sizes().vec()) {
      throw_file(path,
                 "holds tensor " + name + " of shape " + shape_text(found->second.shape) + " where " +
                     shape_text(tensor.sizes()) + " is needed",
                 "use a file written for this model");
    }
  }
  if (file.tensors().size() != into.size()) {
    for (const auto& [name, info] : file.tensors()) {
      bool wanted = false;
      for (const auto& entry : into) wanted = wanted || entry.first == name;
      if (!wanted) {
        throw_file(path,
                   "holds tensor " + name + " of shape " + shape_text(info.shape) + ", which this model does not have",
                   "use a file written for this model");
      }
    }
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : into) {
    const at::Tensor read = read_tensor(file, name);
    if (!at::isfinite(read).all().item<bool>()) {
      throw_file(path, "holds values that are not finite in tensor " + name, "use an earlier checkpoint");
    }
    at::Tensor target = tensor;
    target.copy_(read);
  }
}

}  // namespace vmoba::dit
