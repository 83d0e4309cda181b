// SPDX-License-Identifier: Apache-2.0
// The binary form of a selection: "vmobasel", version, shapes, bits, checksum; little endian. Streams read are hostile.
//
//   8 bytes  magic "vmobasel"
//   u64      version = 1
//   i64      heads, batch
//   a sample each: i64 grid t, y, x; a partition for the keys; i64 1 and a partition for the queries, or i64 0
//   a partition: i64 0 and extents t, y, x (-1: full), or i64 1, tokens of a run, 0, 0
//   u64      words, in the order of Selection::words()
//   u64      FNV-1a of every byte before
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>
#include <ostream>
#include <string>
#include <utility>

#include "text.hpp"
#include "vmoba/error.hpp"
#include "vmoba/selection.hpp"

static_assert(std::endian::native == std::endian::little, "the file is written in the machine's byte order");

namespace vmoba {
namespace {

constexpr std::string_view magic = "vmobasel";
constexpr std::uint64_t version = 1;
// A short file may name a grid that needs gigabytes of labels; no selection of a video comes near this.
constexpr std::int64_t most_tokens = std::int64_t{1} << 24;  // of all samples together
constexpr std::int64_t most_samples = 1 << 16;
constexpr std::int64_t most_heads = 1 << 16;

class Checksum {
 public:
  void add(const void* data, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      sum_ = (sum_ ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3ull;
    }
  }
  std::uint64_t value() const { return sum_; }

 private:
  std::uint64_t sum_ = 0xcbf29ce484222325ull;
};

struct Writer {
  std::ostream& stream;
  Checksum checksum{};

  void bytes(const void* data, std::size_t size) {
    checksum.add(data, size);
    stream.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  void integer(std::int64_t value) { bytes(&value, sizeof value); }
  void partition(const Partition& partition) {
    const Run* run = partition.block().run();
    const Cuboid cuboid = run ? Cuboid{run->tokens, 0, 0} : *partition.block().cuboid();
    for (std::int64_t value : {run ? std::int64_t{1} : std::int64_t{0}, cuboid.t, cuboid.y, cuboid.x}) integer(value);
  }
};

struct Reader {
  std::istream& stream;
  const std::string& name;
  Checksum checksum{};

  [[noreturn]] void refuse(const std::string& rule) const {
    throw_file(name, rule, "save the selection again with this version of vmoba");
  }
  void bytes(void* data, std::size_t size) {
    stream.read(static_cast<char*>(data), static_cast<std::streamsize>(size));
    if (stream.gcount() != static_cast<std::streamsize>(size)) refuse("ends too early for a selection");
    checksum.add(data, size);
  }
  std::int64_t integer() {
    std::int64_t value;
    bytes(&value, sizeof value);
    return value;
  }
  Block block() {
    const std::int64_t kind = integer(), t = integer(), y = integer(), x = integer();
    if (kind == 0) return Cuboid{t, y, x};
    if (kind != 1 || y != 0 || x != 0) refuse("holds a block of unknown kind " + number(kind));
    return Run{t};
  }
};

// Blocks of a partition without making it.
std::int64_t block_count(const Grid& grid, const Block& block) {
  const auto parts = [](std::int64_t length, std::int64_t extent) {
    return extent == full ? 1 : (length + extent - 1) / extent;
  };
  if (const Run* run = block.run()) return parts(grid.tokens(), run->tokens);
  const Cuboid& c = *block.cuboid();
  return parts(grid.t, c.t) * parts(grid.y, c.y) * parts(grid.x, c.x);
}

struct Cut {
  Grid grid;
  Block keys;
  std::optional<Block> queries;
};

void check_block(const Reader& reader, const Grid& grid, const Block& block) {
  const auto fits = [](std::int64_t extent, std::int64_t length) {
    return extent == full || (extent >= 1 && extent <= length);
  };
  const Cuboid* c = block.cuboid();
  const bool good = c ? fits(c->t, grid.t) && fits(c->y, grid.y) && fits(c->x, grid.x)
                      : block.run()->tokens >= 1 && block.run()->tokens <= grid.tokens();
  if (!good) reader.refuse("holds block " + words(block) + ", which does not fit its grid " + words(grid));
}

}  // namespace

void Selection::save(std::ostream& stream, const std::string& name) const {
  std::int64_t tokens = 0;
  for (const Shape& shape : shapes_) tokens += shape.keys->tokens();
  if (tokens > most_tokens || batch() > most_samples || heads_ > most_heads) {
    throw_argument("selection",
                   number(tokens) + " tokens in " + number(batch()) + " samples of " + number(heads_) + " heads",
                   "is more than a file holds (16777216 tokens, 65536 samples, 65536 heads)", "save fewer samples");
  }
  Writer writer{stream};
  writer.bytes(magic.data(), magic.size());
  writer.integer(version);
  writer.integer(heads_);
  writer.integer(batch());
  for (const Shape& shape : shapes_) {
    const Grid& grid = shape.keys->grid();
    for (std::int64_t length : {grid.t, grid.y, grid.x}) writer.integer(length);
    writer.partition(*shape.keys);
    writer.integer(shape.queries ? 1 : 0);
    if (shape.queries) writer.partition(*shape.queries);
  }
  writer.bytes(words_.data(), words_.size_bytes());
  const std::uint64_t sum = writer.checksum.value();
  writer.bytes(&sum, sizeof sum);
  stream.flush();
  if (!stream) throw_file(name, "could not be written", "check the path and the free space");
}

Selection Selection::load(std::istream& stream, const std::string& name) {
  Reader reader{stream, name};
  std::array<char, 8> head;
  reader.bytes(head.data(), head.size());
  if (std::string_view(head.data(), head.size()) != magic) reader.refuse("is not a selection");
  if (const std::int64_t found = reader.integer(); found != static_cast<std::int64_t>(version)) {
    reader.refuse("is a selection of version " + number(found) + ", not " + number(std::int64_t{version}));
  }
  const std::int64_t heads = reader.integer(), batch = reader.integer();
  if (heads < 1 || heads > most_heads) reader.refuse("claims " + number(heads) + " heads");
  if (batch < 1 || batch > most_samples) reader.refuse("claims " + number(batch) + " samples");

  std::vector<Cut> cuts;
  std::int64_t tokens = 0, words_expected = 0;
  for (std::int64_t b = 0; b < batch; ++b) {
    Cut cut;
    cut.grid.t = reader.integer();
    cut.grid.y = reader.integer();
    cut.grid.x = reader.integer();
    for (std::int64_t length : {cut.grid.t, cut.grid.y, cut.grid.x}) {
      if (length < 1 || length > most_tokens) reader.refuse("claims the grid " + vmoba::words(cut.grid));
    }
    tokens += std::min(most_tokens + 1, cut.grid.t * cut.grid.y) * cut.grid.x;
    if (tokens > most_tokens) reader.refuse("claims more than " + number(most_tokens) + " tokens");
    cut.keys = reader.block();
    check_block(reader, cut.grid, cut.keys);
    const std::int64_t block_rows = reader.integer();
    if (block_rows != 0 && block_rows != 1) reader.refuse("holds rows of unknown kind " + number(block_rows));
    if (block_rows == 1) {
      cut.queries = reader.block();
      check_block(reader, cut.grid, *cut.queries);
    }
    const std::int64_t rows = cut.queries ? block_count(cut.grid, *cut.queries) : cut.grid.tokens();
    words_expected += heads * block_count(cut.grid, cut.keys) * ((rows + 63) / 64);  // below 2^16 2^24 2^18 each
    cuts.push_back(cut);
  }

  // Words are read in pieces, so that a lying header costs no more memory than the file has bytes.
  std::vector<std::uint64_t> bits;
  for (std::int64_t left = words_expected; left > 0;) {
    const std::int64_t piece = std::min<std::int64_t>(left, 1 << 16);
    const std::size_t at = bits.size();
    bits.resize(at + piece);
    reader.bytes(bits.data() + at, piece * sizeof(std::uint64_t));
    left -= piece;
  }
  const std::uint64_t sum = reader.checksum.value();
  if (static_cast<std::uint64_t>(reader.integer()) != sum) reader.refuse("is damaged: its checksum does not match");

  std::vector<Shape> shapes;
  std::vector<std::pair<std::pair<Grid, Block>, std::shared_ptr<const Partition>>> made;
  const auto partition = [&](const Grid& grid, const Block& block) {
    for (const auto& [key, value] : made) {
      if (key.first == grid && key.second == block) return value;
    }
    made.push_back({{grid, block}, std::make_shared<const Partition>(grid, block)});
    return made.back().second;
  };
  for (const Cut& cut : cuts) {
    shapes.push_back({partition(cut.grid, cut.keys), cut.queries ? partition(cut.grid, *cut.queries) : nullptr});
  }
  Selection selection(std::move(shapes), heads);
  std::copy(bits.begin(), bits.end(), selection.words_.begin());
  for (std::int64_t b = 0; b < batch; ++b) {
    const Shape& shape = selection.shape(b);
    const std::uint64_t unused = shape.rows() % 64 == 0 ? 0 : ~0ull << shape.rows() % 64;
    for (std::int64_t i = 1; i <= heads * shape.keys->blocks(); ++i) {
      if (selection.words_of(b, 0, 0)[i * shape.words() - 1] & unused) reader.refuse("holds bits beyond its rows");
    }
  }
  return selection;
}

Selection Selection::load_file(const std::string& path) {
  const char* const way_out = "give a file that save wrote";
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown)) throw_file(path, "is a folder", way_out);
  // Opening a named pipe would wait for a writer.
  if (std::filesystem::is_fifo(path, unknown)) throw_file(path, "is a pipe", way_out);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw_file(path, std::string("cannot be read (") + std::strerror(errno) + ")", way_out);
  Selection selection = load(stream, path);
  if (stream.peek() != std::ifstream::traits_type::eof()) {
    throw_file(path, "goes on after the selection's end", way_out);
  }
  return selection;
}

}  // namespace vmoba
