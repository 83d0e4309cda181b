// SPDX-License-Identifier: Apache-2.0
// The public calls: views checked and resolved once, the backend chosen, then plain pointers.
#include "vmoba/attention.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "policy/policy.hpp"
#include "text.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

// A resolved view with what the checks need to know about it.
struct Checked {
  const char* argument;
  ConstView view;
  std::int64_t batch, rows, heads, width;

  std::int64_t elements() const {  // from the first to one past the last
    return (batch - 1) * view.batch_stride + (rows - 1) * view.token_stride + (heads - 1) * view.head_stride + width;
  }
  bool contiguous() const { return elements() == batch * rows * heads * width; }
  std::uintptr_t begin() const { return reinterpret_cast<std::uintptr_t>(view.data); }
  std::uintptr_t end() const { return begin() + static_cast<std::uintptr_t>(elements() * bytes_of(view.dtype)); }
};

void check_strides(const Checked& c) {
  const std::array<std::pair<const char*, std::int64_t>, 3> strides{{{"batch_stride", c.view.batch_stride},
                                                                     {"token_stride", c.view.token_stride},
                                                                     {"head_stride", c.view.head_stride}}};
  for (const auto& [axis, stride] : strides) {
    if (stride < 0 || stride > (std::int64_t{1} << 48)) {
      throw_argument(std::string(c.argument) + "." + axis, number(stride), "is not a stride in elements",
                     "use a view whose strides are 0 or more and below 2^48");
    }
  }
  const auto reach = [](std::int64_t extent, std::int64_t stride) {
    return static_cast<__int128>(extent - 1) * stride;
  };
  if (reach(c.batch, c.view.batch_stride) + reach(c.rows, c.view.token_stride) + reach(c.heads, c.view.head_stride) >
      (std::int64_t{1} << 58)) {
    throw_argument(std::string(c.argument) + " strides",
                   "{" + number(c.view.batch_stride) + ", " + number(c.view.token_stride) + ", " +
                       number(c.view.head_stride) + "}",
                   "reach beyond any memory", "use the strides of a tensor");
  }
}

Checked check_input(const Problem& problem, const char* argument, ConstView view, std::int64_t heads,
                    std::int64_t width, DType dtype, ConstView resolved) {
  if (!view.data) throw_argument(argument, "null", "is no tensor", "pass memory of the problem's shape");
  if (view.dtype != dtype) {
    throw_argument(std::string(argument) + ".dtype", std::string(name(view.dtype)),
                   "is not the problem's " + std::string(name(dtype)), "convert the tensor, or build another problem");
  }
  if (reinterpret_cast<std::uintptr_t>(view.data) % bytes_of(dtype) != 0) {
    throw_argument(std::string(argument) + ".data", "an address",
                   "is not a multiple of the element size " + number(bytes_of(dtype)), "pass aligned memory");
  }
  Checked checked{argument, resolved, problem.packed() ? 1 : problem.batch(), problem.rows(), heads, width};
  check_strides(checked);
  return checked;
}

Checked check_tensor(const Problem& problem, const char* argument, ConstView& view, std::int64_t heads) {
  const ConstView resolved = problem.resolve(view, heads, problem.dim());
  const Checked checked = check_input(problem, argument, view, heads, problem.dim(), problem.dtype(), resolved);
  view = resolved;
  return checked;
}

Checked check_lse(const Problem& problem, const char* argument, ConstView& view) {
  const ConstView resolved = problem.resolve_lse(view);
  const Checked checked = check_input(problem, argument, view, problem.heads(), 1, problem.lse_dtype(), resolved);
  view = resolved;
  return checked;
}

// No element of an output may have two places: each axis steps over everything the smaller ones reach.
void check_output(const Checked& c) {
  std::array<std::pair<std::int64_t, std::int64_t>, 3> axes{
      {{c.view.batch_stride, c.batch}, {c.view.token_stride, c.rows}, {c.view.head_stride, c.heads}}};
  std::sort(axes.begin(), axes.end());
  std::int64_t reach = c.width;
  for (const auto& [stride, extent] : axes) {
    if (extent == 1) continue;
    if (stride < reach) {
      throw_argument(std::string(c.argument) + " strides",
                     "{" + number(c.view.batch_stride) + ", " + number(c.view.token_stride) + ", " +
                         number(c.view.head_stride) + "}",
                     "puts two elements of an output in one place", "use a view whose elements are distinct");
    }
    reach = stride * (extent - 1) + reach;
  }
}

// Refuses what is certainly an overlap: equal addresses, or contiguous tensors whose ranges meet. Slices of one larger
// tensor (q, k, v of a fused projection) share a range without sharing elements, so ranges alone prove nothing there.
void check_overlap(const Checked& output, const Checked& other) {
  if (output.begin() >= other.end() || other.begin() >= output.end()) return;
  if (output.begin() != other.begin() && !(output.contiguous() && other.contiguous())) return;
  throw_argument(output.argument, "an output", std::string("overlaps ") + other.argument,
                 "pass memory of its own for each output");
}

void check_outputs(const std::vector<Checked>& inputs, const std::vector<Checked>& outputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    check_output(outputs[i]);
    for (const Checked& input : inputs) check_overlap(outputs[i], input);
    for (std::size_t j = 0; j < i; ++j) check_overlap(outputs[i], outputs[j]);
  }
}

Checked check_tensor(const Problem& problem, const char* argument, View& view, std::int64_t heads) {
  ConstView constant = view;
  const Checked checked = check_tensor(problem, argument, constant, heads);
  view = problem.resolve(view, heads, problem.dim());
  return checked;
}

Checked check_lse(const Problem& problem, const char* argument, View& view) {
  ConstView constant = view;
  const Checked checked = check_lse(problem, argument, constant);
  view = problem.resolve_lse(view);
  return checked;
}

// Rows may be tokens or blocks; the keys must be cut as the problem says, so that kernels may pack by either.
void check_selection(const Problem& problem, const Selection& selection) {
  if (selection.batch() != problem.batch()) {
    throw_argument("selection", number(selection.batch()) + " samples",
                   "is not the problem's batch of " + number(problem.batch()), "pass a selection of this problem");
  }
  if (selection.heads() != problem.heads()) {
    throw_argument("selection", number(selection.heads()) + " heads", "is not the problem's " + number(problem.heads()),
                   "pass a selection of this problem");
  }
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const Partition& keys = *selection.shape(b).keys;
    const Partition& wanted = *problem.sample(b).partition;
    if (&keys != &wanted && !(keys.grid() == wanted.grid() && keys.block() == wanted.block())) {
      throw_argument("selection", "blocks " + words(keys.block()) + " of grid " + words(keys.grid()),
                     "does not cut the keys as sample " + number(b) + " of the problem, blocks " +
                         words(wanted.block()) + " of grid " + words(wanted.grid()),
                     "pass a selection of this problem");
    }
  }
}

void check_execution(const Execution& execution) {
  if (execution.threads < 1) {
    throw_argument("execution.threads", number(execution.threads), "is not a number of workers", "use 1 or more");
  }
}

void run_select(const Problem& problem, ConstView q, ConstView k, Selection& selection, const Backend& backend,
                const Execution& execution) {
  if (selects_all(problem)) return selection.fill(true);
  policy::entry(problem.policy()).select(problem, q, k, selection, backend, execution);
}

void run_attend(const Problem& problem, const Selection* selection, ConstView q, ConstView k, ConstView v, View out,
                View lse, const Execution& execution) {
  check_execution(execution);
  if (selection) check_selection(problem, *selection);
  const std::vector<Checked> inputs{check_tensor(problem, "q", q, problem.heads()),
                                    check_tensor(problem, "k", k, problem.kv_heads()),
                                    check_tensor(problem, "v", v, problem.kv_heads())};
  std::vector<Checked> outputs{check_tensor(problem, "out", out, problem.heads())};
  if (lse) outputs.push_back(check_lse(problem, "lse", lse));
  check_outputs(inputs, outputs);
  choose_backend(problem, execution).attend(problem, selection, q, k, v, out, lse, execution);
}

void run_backward(const Problem& problem, const Selection* selection, BackwardTensors t, const Execution& execution) {
  check_execution(execution);
  if (selection) check_selection(problem, *selection);
  const std::int64_t heads = problem.heads(), kv_heads = problem.kv_heads();
  std::vector<Checked> inputs{check_tensor(problem, "q", t.q, heads),       check_tensor(problem, "k", t.k, kv_heads),
                              check_tensor(problem, "v", t.v, kv_heads),    check_tensor(problem, "out", t.out, heads),
                              check_tensor(problem, "dout", t.dout, heads), check_lse(problem, "lse", t.lse)};
  if (t.dlse) inputs.push_back(check_lse(problem, "dlse", t.dlse));
  const std::vector<Checked> outputs{check_tensor(problem, "dq", t.dq, heads),
                                     check_tensor(problem, "dk", t.dk, kv_heads),
                                     check_tensor(problem, "dv", t.dv, kv_heads)};
  check_outputs(inputs, outputs);
  choose_backend(problem, execution).attend_backward(problem, selection, t, execution);
}

}  // namespace

bool selects_all(const Problem& problem) { return policy::entry(problem.policy()).selects_all(problem); }

Selection select(const Problem& problem, ConstView q, ConstView k, const Execution& execution) {
  check_execution(execution);
  check_tensor(problem, "q", q, problem.heads());
  check_tensor(problem, "k", k, problem.kv_heads());
  const Backend& backend = choose_backend(problem, execution);
  Selection selection = policy::entry(problem.policy()).empty(problem);
  run_select(problem, q, k, selection, backend, execution);
  return selection;
}

void select_into(const Problem& problem, ConstView q, ConstView k, Selection& selection, const Execution& execution) {
  check_execution(execution);
  check_tensor(problem, "q", q, problem.heads());
  check_tensor(problem, "k", k, problem.kv_heads());
  check_selection(problem, selection);
  for (std::int64_t b = 0; b < selection.batch(); ++b) {
    if (selection.shape(b).queries) {
      throw_argument("selection", "rows of blocks", "is not what policy " + describe(problem.policy()) + " chooses",
                     "pass a selection with one row a token");
    }
  }
  run_select(problem, q, k, selection, choose_backend(problem, execution), execution);
}

void attend(const Problem& problem, const Selection& selection, ConstView q, ConstView k, ConstView v, View out,
            View lse, const Execution& execution) {
  run_attend(problem, &selection, q, k, v, out, lse, execution);
}
void attend(const Problem& problem, ConstView q, ConstView k, ConstView v, View out, View lse,
            const Execution& execution) {
  run_attend(problem, nullptr, q, k, v, out, lse, execution);
}
void attend_backward(const Problem& problem, const Selection& selection, const BackwardTensors& tensors,
                     const Execution& execution) {
  run_backward(problem, &selection, tensors, execution);
}
void attend_backward(const Problem& problem, const BackwardTensors& tensors, const Execution& execution) {
  run_backward(problem, nullptr, tensors, execution);
}

std::int64_t scratch_bytes(const Problem& problem, const Execution& execution) {
  check_execution(execution);
  return choose_backend(problem, execution).scratch_bytes(problem, execution);
}

}  // namespace vmoba
