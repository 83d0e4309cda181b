// SPDX-License-Identifier: Apache-2.0
// The differential fuzzer without libFuzzer: replays kept seeds, then cases of random bytes, through every tier of the
// machine. Exit code 1 and the bytes at a finding.
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "differential/check.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;
using Clock = std::chrono::steady_clock;

constexpr const char* usage =
    "usage: fuzz_differential_replay [--seeds PATH] [--seconds N] [--first N] [--tier NAME] [--keep FOLDER]\n"
    "                                [--bytes HEX] [--all]\n"
    "  --seeds    replay this file, or every file of this folder, first\n"
    "  --seconds  then random cases for so long (default 0)\n"
    "  --first    number of the first random case (default: from the clock)\n"
    "  --tier     this tier only, as cpu:haswell\n"
    "  --keep     write the bytes of findings into this folder (default .)\n"
    "  --bytes    this one case, in words\n"
    "  --all      go on after a finding\n";

struct Options {
  std::string seeds, keep = ".", bytes;
  double seconds = 0;
  std::uint64_t first = 0;
  std::vector<std::string> tiers = vmoba::fuzz::tiers();
  bool all = false;
};

Bytes from_hex(const std::string& text) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// Case n of the endless random ones.
Bytes random_bytes(std::uint64_t n) {
  vmoba::test::Rng rng(n);
  Bytes bytes(64);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(rng.next() >> 32);
  return bytes;
}

int findings = 0;

// True when all is well.
bool try_case(const Options& options, const Bytes& bytes, const std::string& name) {
  const vmoba::fuzz::Finding finding = vmoba::fuzz::check(bytes, options.tiers);
  if (finding.what.empty()) return true;
  ++findings;
  const std::string path = options.keep + "/finding-" + name;
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  std::cout << "FINDING " << name << ", kept in " << path << "\n" << describe(finding, bytes) << std::flush;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.first =
      static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) / 1000000 * 1000000;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--all") {
      options.all = true;
      continue;
    }
    if (i + 1 == argc) {
      std::cerr << usage;
      return 2;
    }
    const std::string value = argv[++i];
    try {
      if (option == "--seeds") {
        options.seeds = value;
      } else if (option == "--seconds") {
        options.seconds = std::stod(value);
      } else if (option == "--first") {
        options.first = std::stoull(value);
      } else if (option == "--tier") {
        options.tiers = {value};
      } else if (option == "--keep") {
        options.keep = value;
      } else if (option == "--bytes") {
        options.bytes = value;
      } else {
        throw std::invalid_argument(option);
      }
    } catch (const std::exception&) {
      std::cerr << usage;
      return 2;
    }
  }

  if (!options.bytes.empty()) {
    const Bytes bytes = from_hex(options.bytes);
    std::cout << words(vmoba::fuzz::decode(bytes)) << "\n";
    const bool good = try_case(options, bytes, "bytes");
    if (good) std::cout << "no finding\n";
    return good ? 0 : 1;
  }

  const auto start = Clock::now();
  std::int64_t kept = 0, random = 0;
  if (!options.seeds.empty()) {
    std::vector<std::filesystem::path> paths;
    if (std::filesystem::is_directory(options.seeds)) {
      for (const auto& entry : std::filesystem::directory_iterator(options.seeds)) paths.push_back(entry.path());
    } else {
      paths.emplace_back(options.seeds);
    }
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) {
      std::ifstream file(path, std::ios::binary);
      const Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      ++kept;
      if (!try_case(options, bytes, path.filename().string()) && !options.all) return 1;
    }
  }
  double slowest = 0;
  std::uint64_t slowest_case = options.first;
  for (std::uint64_t n = options.first;; ++n) {
    const auto before = Clock::now();
    if (std::chrono::duration<double>(before - start).count() >= options.seconds) break;
    ++random;
    if (!try_case(options, random_bytes(n), std::to_string(n)) && !options.all) return 1;
    const double took = std::chrono::duration<double>(Clock::now() - before).count();
    if (took > slowest) slowest = took, slowest_case = n;
  }
  std::cout << kept << " kept and " << random << " random cases from " << options.first << " on through";
  for (const std::string& tier : options.tiers) std::cout << " " << tier;
  std::cout << ": " << findings << " findings; slowest " << slowest << " s, case " << slowest_case << "\n";
  return findings == 0 ? 0 : 1;
}
