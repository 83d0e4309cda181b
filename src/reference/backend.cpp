// SPDX-License-Identifier: Apache-2.0
// The reference backend's table entry, and its reading and writing of rows in any dtype.
#include <algorithm>

#include "dispatch.hpp"
#include "float16.hpp"
#include "reference/reference.hpp"

namespace vmoba::reference {
namespace {

std::int64_t scratch_bytes(const Problem& problem, const Execution&) {
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const Sample& sample = problem.sample(b);
    const std::int64_t tokens = sample.tokens(), blocks = sample.partition->blocks(), dim = problem.dim();
    const std::int64_t pairs = problem.heads() * tokens * blocks;
    const std::int64_t selecting = pairs * 8 + pairs * 32 + (tokens * 2 + blocks) * dim * 8;  // gates, the sorted list
    const std::int64_t forward = sample.rows * (3 * dim + 2) * 8;
    const std::int64_t backward = sample.rows * (8 * dim + 4) * 8;
    most = std::max({most, selecting, forward, backward});
  }
  return most;
}

}  // namespace

constexpr Backend backend{
    .name = "reference",
    .description = "the specification in double precision, one thread, any dtype and head dim; slow",
    .unavailable = [] { return std::string(); },
    .why_not = [](const Problem&) { return std::string(); },
    .select = select,
    .attend = attend,
    .attend_backward = attend_backward,
    .scratch_bytes = scratch_bytes,
};

std::vector<double> read_row(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t row,
                             std::int64_t head, std::int64_t width) {
  std::vector<double> values(width);
  dispatch_dtype(view.dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    const auto* from = static_cast<const Element*>(view.data) + problem.offset(view, b, row, head);
    for (std::int64_t d = 0; d < width; ++d) values[d] = to_double(from[d]);
  });
  return values;
}

void write_row(const Problem& problem, const View& view, std::int64_t b, std::int64_t row, std::int64_t head,
               const double* values, std::int64_t width) {
  dispatch_dtype(view.dtype, [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    auto* to = static_cast<Element*>(view.data) + problem.offset(view, b, row, head);
    for (std::int64_t d = 0; d < width; ++d) to[d] = from_double<Element>(values[d]);
  });
}

std::vector<double> read_rows(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t head) {
  const std::int64_t rows = problem.sample(b).rows, dim = problem.dim();
  std::vector<double> values(rows * dim);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::vector<double> one = read_row(problem, view, b, row, head, dim);
    std::copy(one.begin(), one.end(), values.begin() + row * dim);
  }
  return values;
}

std::vector<double> read_lse(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t head) {
  std::vector<double> values(problem.sample(b).rows);
  for (std::size_t row = 0; row < values.size(); ++row) values[row] = read_row(problem, view, b, row, head, 1)[0];
  return values;
}

}  // namespace vmoba::reference
