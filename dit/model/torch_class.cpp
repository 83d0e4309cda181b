// SPDX-License-Identifier: Apache-2.0
// torch.classes.vmoba.WanModel: the model for Python. Loading libvmoba_dit.so with torch.ops.load_library registers it.
#include <torch/custom_class.h>
#include <torch/torch.h>

#include "dit/model/model.hpp"
#include "dit/model/plan.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

// Errors reach Python as RuntimeError with the sentence of vmoba::Error. Methods run without Python's lock. Not for
// concurrent calls on one object.
struct PythonModel : torch::CustomClassHolder {
  explicit PythonModel(WanModel model) : model(std::move(model)) {}

  // A folder in diffusers' layout.
  static c10::intrusive_ptr<PythonModel> load(const std::string& directory) {
    return c10::make_intrusive<PythonModel>(load_model(directory));
  }
  // A new model of a config.json's text, with the weights of init_weights(seed).
  static c10::intrusive_ptr<PythonModel> create(const std::string& config, std::int64_t seed) {
    WanModel model(parse_config(config, "config"), WanModelImpl::Weights::uninitialised);
    init_weights(model, static_cast<std::uint64_t>(seed));
    return c10::make_intrusive<PythonModel>(std::move(model));
  }
  void save(const std::string& directory, std::int64_t shard_bytes) {
    if (shard_bytes < 1) {
      throw_argument("shard_bytes", std::to_string(shard_bytes), "must be at least 1", "use 10_000_000_000");
    }
    save_model(model, directory, static_cast<std::uint64_t>(shard_bytes));
  }
  void load_weights(const std::string& directory) { dit::load_weights(model, directory); }

  at::Tensor forward(const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text,
                     const std::optional<at::Tensor>& image) {
    return model->forward(latents, timestep, text, image.value_or(at::Tensor()), context);
  }

  // Names as in diffusers' state_dict, and the parameters themselves in the same order (not copies).
  std::vector<std::string> names() const { return model->named_parameters().keys(); }
  std::vector<at::Tensor> parameters() const { return model->parameters(); }

  void set_policy(const std::string& json) { model->set_plan(parse_plan(json)); }  // JSON: see plan.hpp
  std::string policy() const { return to_json(model->plan()); }
  std::string config() const { return to_json(model->config()); }
  void set_activation_checkpointing(bool on) { model->set_activation_checkpointing(on); }
  void record_density(bool on) { model->record_density(on); }
  std::vector<double> last_density() const { return model->last_density(); }

  // Where the following forwards stand in a sampling run; branch separates conditional from unconditional ones.
  void sampling_step(std::int64_t step, std::int64_t steps, std::int64_t branch) {
    if (step < 0 || step >= steps) {
      throw_argument("step", std::to_string(step), "must lie in 0..steps - 1", "steps is " + std::to_string(steps));
    }
    context = {Schedule::Use::sampling, step, steps, branch};
  }
  void training() { context = {}; }
  // "float32", "bfloat16", "float16", "float64": of all parameters, in place.
  void to(at::ScalarType type) { model->to(type); }

  WanModel model;
  StepContext context;
};

TORCH_LIBRARY_FRAGMENT(vmoba, library) {
  library.class_<PythonModel>("WanModel")
      .def_static("load", &PythonModel::load)
      .def_static("create", &PythonModel::create)
      .def("save", &PythonModel::save)
      .def("load_weights", &PythonModel::load_weights)
      .def("forward", &PythonModel::forward)
      .def("names", &PythonModel::names)
      .def("parameters", &PythonModel::parameters)
      .def("set_policy", &PythonModel::set_policy)
      .def("policy", &PythonModel::policy)
      .def("config", &PythonModel::config)
      .def("set_activation_checkpointing", &PythonModel::set_activation_checkpointing)
      .def("record_density", &PythonModel::record_density)
      .def("last_density", &PythonModel::last_density)
      .def("sampling_step", &PythonModel::sampling_step)
      .def("training", &PythonModel::training)
      .def("to", &PythonModel::to);
}

}  // namespace
}  // namespace vmoba::dit
