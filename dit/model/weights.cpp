// SPDX-License-Identifier: Apache-2.0
// Weights in diffusers' layout: one safetensors file, or shards with an index.
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "dit/model/model.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

using nlohmann::json;

constexpr const char* stem = "diffusion_pytorch_model";
const std::string single_name = std::string(stem) + ".safetensors";
const std::string index_name = std::string(stem) + ".safetensors.index.json";

std::string join(const std::string& directory, const std::string& name) {
  return (std::filesystem::path(directory) / name).string();
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// Where the tensors of a checkpoint are: file names in the folder, and for sharded ones which file has which tensor.
struct Layout {
  std::vector<std::string> files;
  std::map<std::string, std::string> home;  // tensor to file; empty for a single file
};

Layout read_index(const std::string& directory) {
  const std::string path = join(directory, index_name);
  const json index = io::parse_json(io::read_file(path));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object() || map->empty()) {
    throw_file(path, "holds no object weight_map of tensor names to file names",
               "copy the folder again from its source");
  }
  Layout layout;
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    // Only plain names: an index from elsewhere must not reach outside its folder.
    if (name.empty() || name.size() > 255 || name == "." || name == ".." || name.find_first_of("/\\") != name.npos ||
        name.find('\0') != name.npos) {
      throw_file(path, "weight_map names no plain file for tensor " + tensor, "copy the folder again from its source");
    }
    layout.home[tensor] = name;
    files.insert(name);
  }
  layout.files.assign(files.begin(), files.end());
  return layout;
}

Layout find_layout(const std::string& directory) {
  // As in diffusers: the index wins where both are there.
  if (exists(join(directory, index_name))) return read_index(directory);
  if (exists(join(directory, single_name))) return {{single_name}, {}};
  throw_file(directory, "holds neither " + single_name + " nor " + index_name,
             "pass the folder that holds a transformer's config.json and weights");
}

at::ScalarType torch_type(const std::string& dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "BF16") return at::kBFloat16;
  if (dtype == "F16") return at::kHalf;
  if (dtype == "F64") return at::kDouble;
  return at::ScalarType::Undefined;
}

std::string file_type(at::ScalarType type) {
  if (type == at::kBFloat16) return "BF16";
  if (type == at::kHalf) return "F16";
  return type == at::kDouble ? "F64" : "F32";
}

// At most eight names.
std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 8; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + " and " + std::to_string(names.size() - 8) + " more" : text;
}

struct Source {
  const io::SafetensorsFile* file;
  const io::TensorInfo* info;
};

class Checkpoint {
 public:
  explicit Checkpoint(const std::string& directory) : directory_(directory) {
    const Layout layout = find_layout(directory);
    for (const std::string& name : layout.files) files_.emplace_back(join(directory, name));
    for (std::size_t i = 0; i < files_.size(); ++i) {
      for (const auto& [tensor, info] : files_[i].tensors()) {
        if (!layout.home.empty()) {
          const auto home = layout.home.find(tensor);
          if (home == layout.home.end() || home->second != layout.files[i]) continue;
        }
        sources_[tensor] = {&files_[i], &info};
      }
    }
    for (const auto& [tensor, name] : layout.home) {
      if (!sources_.contains(tensor)) {
        throw_file(join(directory, name), "lacks tensor " + tensor + ", which " + index_name + " places there",
                   "copy the folder again from its source");
      }
    }
  }

  // What the file of a tensor would be called in a message.
  std::string place(const std::string& tensor) const {
    const auto found = sources_.find(tensor);
    return found == sources_.end() ? directory_ : found->second.file->path();
  }
  const std::map<std::string, Source>& sources() const { return sources_; }
  std::int64_t elements() const {
    double count = 0;
    for (const auto& [tensor, source] : sources_) {
      count += static_cast<double>(source.info->end - source.info->begin) /
               static_cast<double>(std::max<std::int64_t>(1, io::dtype_bytes(source.info->dtype)));
    }
    return static_cast<std::int64_t>(count);
  }

 private:
  std::string directory_;
  std::vector<io::SafetensorsFile> files_;
  std::map<std::string, Source> sources_;
};

void check(const torch::OrderedDict<std::string, at::Tensor>& parameters, const Checkpoint& checkpoint,
           const std::string& directory) {
  std::vector<std::string> missing, unexpected;
  for (const auto& entry : parameters) {
    const auto found = checkpoint.sources().find(entry.key());
    if (found == checkpoint.sources().end()) {
      missing.push_back(entry.key());
      continue;
    }
    const io::TensorInfo& info = *found->second.info;
    if (torch_type(info.dtype) == at::ScalarType::Undefined) {
      throw_file(checkpoint.place(entry.key()), "tensor " + entry.key() + " is of dtype " + info.dtype,
                 "use weights of F32, BF16, F16 or F64");
    }
    if (entry.value().sizes() != at::IntArrayRef(info.shape)) {
      throw_file(checkpoint.place(entry.key()),
                 "tensor " + entry.key() + " has shape " + c10::str(at::IntArrayRef(info.shape)) +
                     " where the model has " + c10::str(entry.value().sizes()),
                 "use weights that belong to the model's config.json");
    }
  }
  for (const auto& [tensor, source] : checkpoint.sources()) {
    // Left over in image-to-video checkpoints; nothing reads it, and diffusers passes over it too.
    if (!parameters.contains(tensor) && tensor.find("norm_added_q") == tensor.npos) unexpected.push_back(tensor);
  }
  if (missing.empty() && unexpected.empty()) return;
  std::string rule;
  if (!missing.empty()) rule += "lacks tensor " + listed(missing);
  if (!unexpected.empty()) rule += (rule.empty() ? "" : "; ") + ("has unexpected tensor " + listed(unexpected));
  throw_file(directory, rule, "use weights that belong to the model's config.json");
}

void copy_into(at::Tensor& parameter, const Source& source, const std::string& tensor) {
  const void* bytes = source.file->data(tensor);
  const std::size_t size = source.info->end - source.info->begin;
  const at::ScalarType type = torch_type(source.info->dtype);
  if (parameter.is_cpu() && parameter.is_contiguous() && parameter.scalar_type() == type) {
    std::memcpy(parameter.mutable_data_ptr(), bytes, size);
    return;
  }
  const at::Tensor aligned = torch::empty(source.info->shape, type);
  std::memcpy(aligned.mutable_data_ptr(), bytes, size);
  parameter.copy_(aligned);
}

void load(WanModelImpl& model, const Checkpoint& checkpoint, const std::string& directory) {
  auto parameters = model.named_parameters();
  check(parameters, checkpoint, directory);
  const at::NoGradGuard no_grad;
  for (auto& entry : parameters) copy_into(entry.value(), checkpoint.sources().at(entry.key()), entry.key());
}

// Fewer numbers than any model of this config has, so that a config cannot make us allocate what its weights do not
// hold.
double least_parameters(const Config& config) {
  const double width = static_cast<double>(config.width());
  return static_cast<double>(config.num_layers) *
             (8 * width * width + 2 * width * static_cast<double>(config.ffn_dim)) +
         width * (static_cast<double>(config.text_dim) + static_cast<double>(config.freq_dim) + 8 * width);
}

void check_size(const Config& config, const Checkpoint& checkpoint, const std::string& described) {
  if (least_parameters(config) <= static_cast<double>(checkpoint.elements())) return;
  throw_file(described,
             "describes at least " + std::to_string(static_cast<std::int64_t>(least_parameters(config))) +
                 " numbers, and the weights beside it hold " + std::to_string(checkpoint.elements()),
             "use the file that belongs to the weights");
}

}  // namespace

void check_size(const Config& config, const std::string& directory, const std::string& described) {
  check_size(config, Checkpoint(directory), described);
}

Config read_config(const std::string& path) { return parse_config(io::read_file(path, 1 << 20), path); }

WanModel load_model(const std::string& directory) {
  if (!exists(join(directory, "config.json"))) {
    throw_file(directory, "holds no config.json", "pass the folder that holds a transformer's config.json and weights");
  }
  const std::string described = join(directory, "config.json");
  const Config config = read_config(described);
  const Checkpoint checkpoint(directory);
  check_size(config, checkpoint, described);
  WanModel model(config, WanModelImpl::Weights::uninitialised);
  load(*model, checkpoint, directory);
  return model;
}

void load_weights(WanModel& model, const std::string& directory) { load(*model, Checkpoint(directory), directory); }

void save_model(const WanModel& model, const std::string& directory, std::uint64_t shard_bytes) {
  const at::NoGradGuard no_grad;
  io::make_directories(directory);
  std::vector<at::Tensor> kept;  // what the pointers below point into
  std::vector<std::vector<io::TensorData>> shards(1);
  std::uint64_t total = 0, filled = 0;
  for (const auto& entry : model->named_parameters()) {
    const at::Tensor value = entry.value().detach().to(at::kCPU).contiguous();
    const std::uint64_t bytes = value.nbytes();
    if (filled > 0 && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back({entry.key(), file_type(value.scalar_type()), value.sizes().vec(), value.const_data_ptr()});
    kept.push_back(value);
    filled += bytes;
    total += bytes;
  }
  // Transformers and diffusers ask for this entry.
  const std::map<std::string, std::string> metadata{{"format", "pt"}};
  std::set<std::string> written;
  json weight_map = json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    std::array<char, 32> part{};
    std::snprintf(part.data(), part.size(), "-%05zu-of-%05zu", i + 1, shards.size());
    const std::string name = shards.size() == 1 ? single_name : std::string(stem) + part.data() + ".safetensors";
    io::write_safetensors(join(directory, name), shards[i], metadata);
    written.insert(name);
    for (const io::TensorData& tensor : shards[i]) weight_map[tensor.name] = name;
  }
  if (shards.size() > 1) {
    const json index{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    io::write_file(join(directory, index_name), index.dump(2) + "\n");
    written.insert(index_name);
  }
  io::write_file(join(directory, "config.json"), to_json(model->config()));
  // An index or shards of an earlier save would be read in place of what was just written.
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name == index_name || name == single_name ||
                      (name.starts_with(std::string(stem) + "-") && name.ends_with(".safetensors"));
    if (ours && !written.contains(name)) std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace vmoba::dit
