// SPDX-License-Identifier: Apache-2.0
// The safetensors header: an event parser that accepts exactly the format's grammar, then the layout checks.
#include "io/safetensors_header.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "vmoba/error.hpp"

namespace vmoba::io {
namespace {

constexpr std::uint64_t header_limit = 100'000'000;  // the format's own limit
constexpr std::size_t dimension_limit = 64;

// Long or binary names are shortened for messages.
std::string in_quotes(const std::string& name) {
  std::string out = "'";
  for (const char c : name.substr(0, 80)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (name.size() > 80) {
    while (!out.empty() && (static_cast<unsigned char>(out.back()) & 0xC0) == 0x80) out.pop_back();
    if (!out.empty() && static_cast<unsigned char>(out.back()) >= 0xC0) out.pop_back();
    out += "...";
  }
  return out + "'";
}

// Receives parse events; every callback returns false to stop at the first thing that does not belong. Events instead
// of a document: nothing deeper than the format allows is ever built, and a name that comes twice is seen.
class HeaderEvents {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  explicit HeaderEvents(SafetensorsHeader& header) : header_(header) {}
  const std::string& complaint() const { return complaint_; }

  bool start_object(std::size_t) {
    if (place_ == Place::outside) return go(Place::names);
    if (place_ == Place::entry) {
      has_dtype_ = has_shape_ = has_offsets_ = false;
      info_ = {};
      return go(Place::fields);
    }
    if (place_ == Place::metadata_entry) return go(Place::metadata_keys);
    return unexpected("an object");
  }
  bool key(string_t& key) {
    if (place_ == Place::names) {
      name_ = key;
      if (key == "__metadata__") {
        if (has_metadata_) return say("has two '__metadata__' entries");
        has_metadata_ = true;
        return go(Place::metadata_entry);
      }
      if (header_.tensors.contains(key)) return say("has two tensors named " + in_quotes(key));
      return go(Place::entry);
    }
    if (place_ == Place::metadata_keys) {
      field_ = key;
      if (header_.metadata.contains(key)) return say("has the metadata key " + in_quotes(key) + " twice");
      return go(Place::metadata_value);
    }
    bool& seen = key == "dtype" ? has_dtype_ : key == "shape" ? has_shape_ : has_offsets_;
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return say("has the unknown field " + in_quotes(key) + " in tensor " + in_quotes(name_));
    }
    if (seen) return say("has the field '" + key + "' twice in tensor " + in_quotes(name_));
    seen = true;
    return go(key == "dtype" ? Place::dtype : key == "shape" ? Place::shape : Place::offsets);
  }
  bool end_object() {
    if (place_ == Place::names) return go(Place::outside);
    if (place_ == Place::metadata_keys) return go(Place::names);
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return say("lacks '" +
                 std::string(!has_dtype_   ? "dtype"
                             : !has_shape_ ? "shape"
                                           : "data_offsets") +
                 "' in tensor " + in_quotes(name_));
    }
    header_.tensors.emplace(name_, std::move(info_));
    return go(Place::names);
  }
  bool start_array(std::size_t) {
    if (place_ == Place::shape) return go(Place::shape_items);
    if (place_ == Place::offsets) {
      offsets_ = 0;
      return go(Place::offset_items);
    }
    return unexpected("an array");
  }
  bool end_array() {
    if (place_ == Place::offset_items && offsets_ != 2)
      return say("needs two data_offsets in tensor " + in_quotes(name_));
    return go(Place::fields);
  }
  bool string(string_t& text) {
    if (place_ == Place::dtype) {
      if (dtype_bytes(text) == 0)
        return say("has the unknown dtype " + in_quotes(text) + " in tensor " + in_quotes(name_));
      info_.dtype = text;
      return go(Place::fields);
    }
    if (place_ == Place::metadata_value) {
      header_.metadata.emplace(field_, text);
      return go(Place::metadata_keys);
    }
    return unexpected("a string");
  }
  bool number_unsigned(number_unsigned_t value) {
    if (place_ == Place::shape_items) {
      if (info_.shape.size() == dimension_limit) return say("has too many dimensions in tensor " + in_quotes(name_));
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return say("has an absurd shape in tensor " + in_quotes(name_));
      }
      info_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ == Place::offset_items) {
      if (offsets_ == 2) return say("has more than two data_offsets in tensor " + in_quotes(name_));
      (offsets_++ == 0 ? info_.begin : info_.end) = value;
      return true;
    }
    return unexpected("a number");
  }
  bool number_integer(number_integer_t) { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) { return unexpected("a fractional or too large number"); }
  bool boolean(bool) { return unexpected("true or false"); }
  bool null() { return unexpected("null"); }
  bool binary(binary_t&) { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    return say("is not valid JSON in UTF-8 at header byte " + std::to_string(position));
  }

 private:
  enum class Place {
    outside,
    names,
    entry,
    fields,
    dtype,
    shape,
    shape_items,
    offsets,
    offset_items,
    metadata_entry,
    metadata_keys,
    metadata_value
  };
  bool go(Place place) {
    place_ = place;
    return true;
  }
  bool say(std::string what) {
    if (complaint_.empty()) complaint_ = std::move(what);
    return false;
  }
  bool unexpected(const char* what) {
    const bool inside = place_ != Place::outside && place_ != Place::names;
    return say("has " + std::string(what) + " where the format has none" + (inside ? ", in " + in_quotes(name_) : ""));
  }

  SafetensorsHeader& header_;
  Place place_ = Place::outside;
  std::string complaint_, name_, field_;
  TensorInfo info_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

}  // namespace

std::int64_t dtype_bytes(const std::string& dtype) {
  static constexpr std::pair<const char*, std::int64_t> sizes[] = {
      {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"F64", 8}, {"I64", 8}, {"I32", 4},     {"I16", 2},    {"I8", 1},
      {"U8", 1},  {"BOOL", 1}, {"U16", 2}, {"U32", 4}, {"U64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [name, bytes] : sizes) {
    if (dtype == name) return bytes;
  }
  return 0;
}

SafetensorsHeader parse_safetensors(const void* bytes, std::uint64_t size, const std::string& name) {
  const std::string way_out = "use an intact safetensors file";
  const auto* p = static_cast<const unsigned char*>(bytes);
  if (size < 8) throw_file(name, "has " + std::to_string(size) + " bytes, fewer than a safetensors header", way_out);
  std::uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | p[i];
  if (header_size > header_limit) {
    throw_file(name, "claims a header of " + std::to_string(header_size) + " bytes, more than the format's 100000000",
               way_out);
  }
  if (header_size > size - 8) {
    throw_file(name,
               "claims a header of " + std::to_string(header_size) + " bytes but has only " + std::to_string(size - 8) +
                   " after its size",
               way_out);
  }
  // The format says that the header begins with '{'; JSON itself would let spaces and a byte order mark go before it.
  if (header_size == 0 || p[8] != '{') throw_file(name, "does not begin its header with '{'", way_out);

  SafetensorsHeader header;
  header.data_begin = 8 + header_size;
  HeaderEvents events(header);
  bool fine = false;
  try {
    fine = nlohmann::json::sax_parse(p + 8, p + 8 + header_size, &events);
  } catch (const nlohmann::json::exception&) {
    fine = false;
  }
  if (!fine) throw_file(name, events.complaint().empty() ? "has a malformed header" : events.complaint(), way_out);

  const std::uint64_t data_size = size - header.data_begin;
  std::vector<std::pair<std::uint64_t, const std::pair<const std::string, TensorInfo>*>> order;
  order.reserve(header.tensors.size());
  for (const auto& entry : header.tensors) {
    const auto& [tensor, info] = entry;
    const std::string range = "[" + std::to_string(info.begin) + ", " + std::to_string(info.end) + ")";
    if (info.begin > info.end || info.end > data_size) {
      throw_file(
          name,
          "places tensor " + in_quotes(tensor) + " at " + range + " of " + std::to_string(data_size) + " data bytes",
          way_out);
    }
    std::uint64_t need = static_cast<std::uint64_t>(dtype_bytes(info.dtype));
    // A zero anywhere makes the tensor empty, however large the other sizes are.
    const bool empty = std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end();
    for (const std::int64_t n : info.shape) {
      if (empty) break;
      if (__builtin_mul_overflow(need, static_cast<std::uint64_t>(n), &need)) {
        throw_file(name, "has a shape beyond 64 bits in tensor " + in_quotes(tensor), way_out);
      }
    }
    if (empty) need = 0;
    if (need != info.end - info.begin) {
      throw_file(name,
                 "gives tensor " + in_quotes(tensor) + " " + std::to_string(info.end - info.begin) +
                     " bytes where its " + info.dtype + " shape needs " + std::to_string(need),
                 way_out);
    }
    order.emplace_back(info.begin, &entry);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    // Empty tensors sort before the tensor that starts at the same byte.
    return std::pair(a.second->second.begin, a.second->second.end) <
           std::pair(b.second->second.begin, b.second->second.end);
  });
  std::uint64_t at = 0;
  for (const auto& [begin, entry] : order) {
    if (begin != at) {
      throw_file(name,
                 std::string(begin < at ? "has overlapping data before" : "has a hole in its data before") +
                     " tensor " + in_quotes(entry->first),
                 way_out);
    }
    at = entry->second.end;
  }
  if (at != data_size) {
    throw_file(name, "has " + std::to_string(data_size - at) + " bytes after its last tensor", way_out);
  }
  return header;
}

}  // namespace vmoba::io
