// SPDX-License-Identifier: Apache-2.0
// Operators that look at a selection: mask, counts, density, files; and the partition's labels.
#include <ATen/ATen.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "torch/describe.hpp"
#include "torch/spec.hpp"

namespace vmoba::ops {
namespace {

// Without it a crash after the rename could leave an empty file in the place of a good one.
bool on_disk(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool fine = ::fsync(descriptor) == 0;
  ::close(descriptor);
  return fine;
}

// A selection knows neither dtype nor head dim: any will do.
Problem problem_for(std::int64_t batch, std::int64_t heads, at::IntArrayRef grid, at::IntArrayRef block) {
  ProblemOptions options;
  const std::vector<Grid> grids = grids_of(grid);
  if (grids.size() == 1) {
    options.grid = grids[0];
    options.batch = batch;
  } else if (batch != static_cast<std::int64_t>(grids.size())) {
    throw_argument("batch", std::to_string(batch), "differs from the " + std::to_string(grids.size()) + " grids given",
                   "pass one grid a sample");
  } else {
    options.grids = grids;
  }
  options.block = block_of(block);
  options.heads = heads;
  options.dim = 8;
  options.policy = Dense{};
  return Problem(std::move(options));
}

template <class Body>
auto with_selection(const at::Tensor& bits, std::int64_t batch, std::int64_t heads, at::IntArrayRef grid,
                    at::IntArrayRef block, Body&& body) {
  return translated([&] {
    const Problem problem = problem_for(batch, heads, grid, block);
    const at::Tensor words = bits.contiguous();
    return body(selection_of(words, problem));
  });
}

}  // namespace

std::vector<at::Tensor> selection_mask(const at::Tensor& bits, std::int64_t batch, std::int64_t heads,
                                       at::IntArrayRef grid, at::IntArrayRef block) {
  return with_selection(bits, batch, heads, grid, block, [&](const Selection& selection) {
    std::vector<at::Tensor> masks;
    for (std::int64_t b = 0; b < selection.batch(); ++b) {
      const std::int64_t rows = selection.shape(b).rows(), blocks = selection.blocks(b);
      at::Tensor mask = at::empty({heads, rows, blocks}, at::kBool);
      bool* out = mask.mutable_data_ptr<bool>();
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t c = 0; c < blocks; ++c) {
          const std::uint64_t* words = selection.words_of(b, h, c);
          for (std::int64_t row = 0; row < rows; ++row) {
            out[(h * rows + row) * blocks + c] = words[row / 64] >> (row % 64) & 1;
          }
        }
      }
      masks.push_back(std::move(mask));
    }
    return masks;
  });
}

std::vector<at::Tensor> selection_counts(const at::Tensor& bits, std::int64_t batch, std::int64_t heads,
                                         at::IntArrayRef grid, at::IntArrayRef block) {
  return with_selection(bits, batch, heads, grid, block, [&](const Selection& selection) {
    std::vector<at::Tensor> all;
    for (std::int64_t b = 0; b < selection.batch(); ++b) {
      at::Tensor counts = at::empty({heads, selection.shape(b).rows()}, at::kLong);
      auto* out = counts.mutable_data_ptr<std::int64_t>();
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::vector<std::int64_t> row = selection.counts(b, h);
        out = std::copy(row.begin(), row.end(), out);
      }
      all.push_back(std::move(counts));
    }
    return all;
  });
}

at::Tensor selection_density(const at::Tensor& bits, std::int64_t batch, std::int64_t heads, at::IntArrayRef grid,
                             at::IntArrayRef block) {
  return with_selection(bits, batch, heads, grid, block, [&](const Selection& selection) {
    at::Tensor density = at::empty({selection.batch(), heads}, at::kDouble);
    auto* out = density.mutable_data_ptr<double>();
    for (std::int64_t b = 0; b < selection.batch(); ++b) {
      for (std::int64_t h = 0; h < heads; ++h) *out++ = selection.density(b, h);
    }
    return density;
  });
}

std::int64_t selection_words(std::int64_t batch, std::int64_t heads, at::IntArrayRef grid, at::IntArrayRef block) {
  return translated([&] { return Selection::word_count(problem_for(batch, heads, grid, block)); });
}

void selection_save(const at::Tensor& bits, std::int64_t batch, std::int64_t heads, at::IntArrayRef grid,
                    at::IntArrayRef block, const std::string& path) {
  with_selection(bits, batch, heads, grid, block, [&](const Selection& selection) {
    const std::string temporary = path + ".tmp-" + std::to_string(::getpid());
    try {
      std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
      if (!stream) {
        throw_file(path, std::string("cannot be written (") + std::strerror(errno) + ")",
                   "choose a folder that exists and may be written to");
      }
      selection.save(stream, path);
      stream.close();
      if (!stream || !on_disk(temporary) || std::rename(temporary.c_str(), path.c_str()) != 0) {
        throw_file(path, std::string("cannot be written (") + std::strerror(errno) + ")",
                   "free space or choose another folder");
      }
    } catch (...) {
      std::remove(temporary.c_str());
      throw;
    }
    return 0;
  });
}

std::tuple<at::Tensor, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>> selection_load(
    const std::string& path) {
  return translated([&] {
    const Selection selection = Selection::load_file(path).by_token();
    std::vector<Grid> grids;
    for (std::int64_t b = 0; b < selection.batch(); ++b) {
      const Partition& keys = *selection.shape(b).keys;
      if (!(keys.block() == selection.shape(0).keys->block())) {
        throw_file(path, "holds samples cut by different blocks", "save one selection a block");
      }
      grids.push_back(keys.grid());
    }
    if (grids.empty()) throw_file(path, "holds no sample", "save a selection that select made");
    const auto words = selection.words();
    at::Tensor bits = at::empty({static_cast<std::int64_t>(words.size())}, at::kLong);
    std::memcpy(bits.mutable_data_ptr(), words.data(), words.size_bytes());
    return std::make_tuple(bits, selection.heads(), numbers_of(grids), numbers_of(selection.shape(0).keys->block()));
  });
}

at::Tensor partition_labels(at::IntArrayRef grid, at::IntArrayRef block) {
  return translated([&] {
    const std::vector<Grid> grids = grids_of(grid);
    if (grids.size() != 1) {
      throw_argument("grid", std::to_string(grids.size()) + " grids", "is more than one",
                     "ask for one sample at a time");
    }
    const Partition partition(grids[0], block_of(block));
    at::Tensor labels = at::empty({partition.tokens()}, at::kLong);
    std::copy(partition.labels().begin(), partition.labels().end(), labels.mutable_data_ptr<std::int64_t>());
    return labels;
  });
}

}  // namespace vmoba::ops
