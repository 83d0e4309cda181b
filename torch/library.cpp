// SPDX-License-Identifier: Apache-2.0
// TORCH_LIBRARY(vmoba): schemas and their kernels, and the same operators as C++ functions.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "torch/describe.hpp"
#include "torch/operators.hpp"
#include "torch/spec.hpp"

namespace vmoba::ops {
namespace {

std::vector<c10::SymInt> symbolic(const std::vector<std::int64_t>& numbers) { return {numbers.begin(), numbers.end()}; }

std::optional<Tensor> or_none(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// Tensors of a device this build has no kernels for.
void refuse_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  for (const c10::IValue& value : *stack) {
    if (value.isTensor() && value.toTensor().defined() && !value.toTensor().is_cpu()) {
      translated([&] {
        throw_argument(op.schema().name() + "'s tensors", "on " + value.toTensor().device().str(),
                       "are not where this build computes", "move them to the cpu");
      });
    }
  }
  C10_THROW_ERROR(ValueError, "vmoba: tensors are on a device this build does not compute on; move them to the cpu");
}

}  // namespace

Pair attention_operator(const Tensor& q, const Tensor& k, const Tensor& v, c10::SymIntArrayRef grid,
                        at::IntArrayRef block, std::string_view policy, double amount, std::string_view scope,
                        std::int64_t min_blocks, std::optional<std::int64_t> max_blocks, std::optional<double> scale,
                        c10::SymInt text, std::string_view text_at, const std::optional<Tensor>& valid,
                        std::string_view backend) {
  std::optional<Tensor> bits;
  if (policy != "dense") {
    bits = call::select(q, k, grid, block, policy, amount, scope, min_blocks, max_blocks, text, text_at, backend);
  }
  return call::attend(q, k, v, bits, grid, block, scale, std::move(text), text_at, valid, backend);
}

at::Tensor select(const at::Tensor& q, const at::Tensor& k, const Spec& spec) {
  const PolicyNumbers policy = numbers_of(spec.policy);
  return call::select(q, k, symbolic(numbers_of(spec.grids)), numbers_of(spec.block), policy.name, policy.amount,
                      policy.scope, policy.min_blocks, policy.max_blocks, spec.text, name_of(spec.text_at),
                      spec.backend);
}

std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const at::Tensor& bits, const Spec& spec) {
  return call::attend(q, k, v, or_none(bits), symbolic(numbers_of(spec.grids)), numbers_of(spec.block), spec.scale,
                      spec.text, name_of(spec.text_at), or_none(spec.text_valid), spec.backend);
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Spec& spec) {
  const bool dense = std::holds_alternative<Dense>(spec.policy);
  return std::get<0>(attend(q, k, v, dense ? at::Tensor() : select(q, k, spec), spec));
}

}  // namespace vmoba::ops

namespace {
namespace ops = vmoba::ops;

// What select, attend and attention share, written once.
constexpr const char* select_schema =
    "select(Tensor q, Tensor k, SymInt[] grid, int[] block, str policy='threshold', float amount=0.25, "
    "str scope='head', int min_blocks=1, int? max_blocks=None, SymInt text=0, str text_at='rear', str backend='') "
    "-> Tensor";
constexpr const char* attend_schema =
    "attend(Tensor q, Tensor k, Tensor v, Tensor? bits, SymInt[] grid, int[] block, float? scale=None, SymInt text=0, "
    "str text_at='rear', Tensor? valid=None, str backend='') -> (Tensor out, Tensor lse)";
constexpr const char* attend_backward_schema =
    "attend_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor? bits, "
    "SymInt[] grid, int[] block, float? scale=None, SymInt text=0, str text_at='rear', Tensor? valid=None, "
    "str backend='') -> (Tensor dq, Tensor dk, Tensor dv)";
constexpr const char* attention_schema =
    "attention(Tensor q, Tensor k, Tensor v, SymInt[] grid, int[] block, str policy='threshold', float amount=0.25, "
    "str scope='head', int min_blocks=1, int? max_blocks=None, float? scale=None, SymInt text=0, str text_at='rear', "
    "Tensor? valid=None, str backend='') -> (Tensor out, Tensor lse)";

}  // namespace

TORCH_LIBRARY(vmoba, library) {
  library.def(select_schema, {at::Tag::pt2_compliant_tag});
  library.def(attend_schema, {at::Tag::pt2_compliant_tag});
  library.def(attend_backward_schema, {at::Tag::pt2_compliant_tag});
  library.def(attention_schema, {at::Tag::pt2_compliant_tag});
  library.impl("attention", &ops::attention_operator);

  // A selection looked at: sizes as problem, bits as select made them.
  library.def("selection_mask(Tensor bits, int batch, int heads, int[] grid, int[] block) -> Tensor[]",
              &ops::selection_mask);
  library.def("selection_counts(Tensor bits, int batch, int heads, int[] grid, int[] block) -> Tensor[]",
              &ops::selection_counts);
  library.def("selection_density(Tensor bits, int batch, int heads, int[] grid, int[] block) -> Tensor",
              &ops::selection_density);
  library.def("selection_words(int batch, int heads, int[] grid, int[] block) -> int", &ops::selection_words);
  library.def("selection_save(Tensor bits, int batch, int heads, int[] grid, int[] block, str path) -> ()",
              &ops::selection_save);
  library.def("selection_load(str path) -> (Tensor bits, int heads, int[] grid, int[] block)", &ops::selection_load);
  library.def("partition_labels(int[] grid, int[] block) -> Tensor", &ops::partition_labels);

  // The engine about itself, as JSON.
  library.def("info() -> str", &ops::info);
  library.def("presets() -> str", &ops::presets_json);
  library.def(
      "explain(int[] grid, int[] block, str policy, float amount, str scope, int min_blocks, int? max_blocks, "
      "int batch, int heads, int kv_heads, int dim, str dtype, float? scale, int text, str text_at, str backend) -> "
      "str",
      &ops::explain_json);
  library.def(
      "schedule(float dense_fraction, int? dense_steps, int[] dense_layers, int? min_tokens, int refresh, int step, "
      "int steps, int layer, int tokens, str use) -> (bool dense, bool refreshes, int first_sparse_step)",
      &ops::schedule);
}

TORCH_LIBRARY_IMPL(vmoba, CPU, library) {
  library.impl("select", &ops::cpu::select);
  library.impl("attend", &ops::cpu::attend);
  library.impl("attend_backward", &ops::cpu::attend_backward);
}

TORCH_LIBRARY_IMPL(vmoba, Meta, library) {
  library.impl("select", &ops::meta::select);
  library.impl("attend", &ops::meta::attend);
  library.impl("attend_backward", &ops::meta::attend_backward);
}

TORCH_LIBRARY_IMPL(vmoba, Autograd, library) {
  library.impl("select", torch::CppFunction::makeFallthrough());
  library.impl("attend", &ops::autograd::attend);
  library.impl("attend_backward", &ops::autograd::attend_backward);
}

TORCH_LIBRARY_IMPL(vmoba, AutocastCPU, library) {
  library.impl("select", &ops::autocast::select);
  library.impl("attend", &ops::autocast::attend);
  library.impl("attention", &ops::autocast::attention);
}

TORCH_LIBRARY_IMPL(vmoba, CUDA, library) {
  for (const char* name : {"select", "attend", "attend_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&ops::refuse_device>());
  }
}
