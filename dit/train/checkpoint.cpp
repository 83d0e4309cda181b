// SPDX-License-Identifier: Apache-2.0
// Checkpoints of training: folders that are there whole or not at all.
#include "dit/train/checkpoint.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "io/file.hpp"
#include "io/json.hpp"
#include "vmoba/error.hpp"
#include "vmoba/version.hpp"

namespace vmoba::dit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* state_file = "state.json";
constexpr const char* optimizer_file = "optimizer.safetensors";
constexpr const char* state_kind = "vmoba training checkpoint";

void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0 || ::fsync(descriptor) != 0) {
    const std::string reason = std::strerror(errno);
    if (descriptor >= 0) ::close(descriptor);
    throw_file(path, "cannot be written to disk (" + reason + ")", "free space or choose another folder");
  }
  ::close(descriptor);
}

std::string folder_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

bool is_checkpoint_name(const std::string& name) {
  return name.rfind("step-", 0) == 0 && name.size() > 5 &&
         std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Swaps averages into the model while it lives.
class WithAverages {
 public:
  explicit WithAverages(AveragedWeights& averages) : averages_(averages) { averages_.swap(); }
  ~WithAverages() { averages_.swap(); }
  WithAverages(const WithAverages&) = delete;
  WithAverages& operator=(const WithAverages&) = delete;

 private:
  AveragedWeights& averages_;
};

void save_weights(const std::string& folder, const CheckpointParts& parts) {
  io::make_directories(folder);
  save_model(*parts.model, folder);
  if (parts.text != nullptr) save_text_embedding(*parts.text, folder);
}

void refuse_non_finite(const WanModel& model, const std::string& directory) {
  const std::vector<std::string> names = non_finite_weights(model);
  if (names.empty()) return;
  throw_file(directory,
             "holds weights that are not finite in tensor " + names[0] +
                 (names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : ""),
             "use an earlier checkpoint");
}

}  // namespace

NamedTensors trained_weights(WanModel& model, TextEmbedding* text) {
  NamedTensors all;
  for (const auto& item : model->named_parameters()) all.emplace_back(item.key(), item.value());
  if (text != nullptr) {
    for (const auto& item : (*text)->named_parameters()) all.emplace_back("text_embedding." + item.key(), item.value());
  }
  return all;
}

std::string save_checkpoint(const std::string& out, const CheckpointState& state, const CheckpointParts& parts,
                            std::int64_t keep) {
  const std::string root = out + "/checkpoints", path = root + "/" + folder_name(state.step);
  const std::string temporary = root + "/." + folder_name(state.step) + ".tmp-" + std::to_string(::getpid());
  std::error_code ignored;
  try {
    io::make_directories(root);
    fs::remove_all(temporary, ignored);
    save_weights(temporary, parts);
    if (parts.averages != nullptr) {
      const WithAverages averaged(*parts.averages);
      save_weights(temporary + "/ema", parts);
      sync_folder(temporary + "/ema");
    }
    save_tensors(temporary + "/" + optimizer_file, parts.optimizer->state(),
                 {{"kind", "AdamW state"}, {"vmoba", std::string(version)}});
    Json json;
    json["kind"] = state_kind;
    json["vmoba"] = std::string(version);
    json["step"] = state.step;
    json["samples"] = state.samples;
    json["smoothed_loss"] = state.smoothed_loss;
    json["threads"] = state.threads;
    json["dataset"] = state.dataset;
    json["tokenizer"] = state.tokenizer;
    json["ema"] = parts.averages != nullptr;
    json["options"] = Json::parse(options_json(state.options));
    io::write_file(temporary + "/" + state_file, json.dump(2) + "\n");
    sync_folder(temporary);
    // A folder of this step can be there from before: it moves aside first, and away only when the new one is in place.
    const std::string aside = root + "/." + folder_name(state.step) + ".old-" + std::to_string(::getpid());
    const bool replaces = fs::exists(path, ignored);
    if (replaces) fs::rename(path, aside);
    fs::rename(temporary, path);
    sync_folder(root);
    if (replaces) fs::remove_all(aside, ignored);
  } catch (const fs::filesystem_error& error) {
    fs::remove_all(temporary, ignored);
    throw_file(path, std::string("cannot be written (") + error.code().message() + ")",
               "free space or choose another folder");
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  const std::vector<std::string> all = checkpoints(out);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    if (all[i] != path) fs::remove_all(all[i], ignored);
  }
  return path;
}

WanModel load_finite_model(const std::string& directory) {
  WanModel model = load_model(directory);
  refuse_non_finite(model, directory);
  return model;
}

void load_finite_weights(WanModel& model, const std::string& directory) {
  load_weights(model, directory);
  refuse_non_finite(model, directory);
}

bool has_state(const std::string& directory) {
  std::error_code ignored;
  return fs::exists(directory + "/" + state_file, ignored);
}

std::vector<std::string> checkpoints(const std::string& out) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator item(out + "/checkpoints", error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (is_checkpoint_name(name) && has_state(item->path().string())) found.push_back(item->path().string());
  }
  std::sort(found.begin(), found.end(),
            [](const std::string& a, const std::string& b) { return std::pair(a.size(), a) < std::pair(b.size(), b); });
  return found;
}

std::string find_checkpoint(const std::string& directory) {
  std::error_code ignored;
  if (fs::exists(directory + "/config.json", ignored)) return directory;
  const std::vector<std::string> all = checkpoints(directory);
  if (!all.empty()) return all.back();
  throw_file(directory, fs::exists(directory, ignored) ? "holds neither a checkpoint nor a model" : "does not exist",
             "name the folder of a run, of one of its checkpoints, or a folder with config.json");
}

CheckpointState read_state(const std::string& directory) {
  const std::string path = directory + "/" + state_file;
  const std::string text = io::read_file(path);
  try {
    const Json json = io::parse_json<Json>(text);
    if (json.is_discarded())
      throw_file(path, "is truncated or not written by train (it is no JSON)",
                 "continue from an earlier checkpoint by removing this folder");
    if (!json.is_object() || json.value("kind", "") != state_kind) {
      throw_file(path, "is not the state of a training run", "name a checkpoint that train wrote");
    }
    CheckpointState state;
    state.vmoba = json.at("vmoba").get<std::string>();
    for (const char* number : {"step", "samples", "threads"})
      if (!json.at(number).is_number_integer())
        throw_file(path, std::string("holds no whole number as ") + number, "name a checkpoint that train wrote");
    state.step = json.at("step").get<std::int64_t>();
    state.samples = json.at("samples").get<std::int64_t>();
    // JSON has no NaN; a smoothed loss that is missing there starts anew.
    state.smoothed_loss = json.at("smoothed_loss").is_number() ? json.at("smoothed_loss").get<double>() : 0;
    state.threads = json.at("threads").get<std::int64_t>();
    state.dataset = json.at("dataset").get<std::string>();
    state.tokenizer = json.at("tokenizer").get<std::string>();
    if (state.step < 0 || state.samples < 0)
      throw_file(path, "holds a negative step", "name a checkpoint that train wrote");
    state.options = parse_options(json.at("options").dump(), path);
    return state;
  } catch (const Json::exception& error) {
    throw_file(path, std::string("is truncated or not written by train (") + error.what() + ")",
               "continue from an earlier checkpoint by removing this folder");
  }
}

void load_checkpoint(const std::string& directory, const CheckpointState& state, const CheckpointParts& parts) {
  // The optimizer's file is the one that only a checkpoint has; checking it first leaves the weights alone when it is
  // bad.
  load_tensors(directory + "/" + optimizer_file, parts.optimizer->state());
  if (parts.averages != nullptr) {
    const WithAverages averaged(*parts.averages);
    load_finite_weights(*parts.model, directory + "/ema");
    if (parts.text != nullptr) load_text_embedding_into(*parts.text, directory + "/ema");
  }
  load_finite_weights(*parts.model, directory);
  if (parts.text != nullptr) load_text_embedding_into(*parts.text, directory);
  parts.optimizer->set_steps(state.step);
}

}  // namespace vmoba::dit
