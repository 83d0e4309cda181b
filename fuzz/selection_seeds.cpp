// SPDX-License-Identifier: Apache-2.0
// Writes the seeds of the selection fuzz target into the folder given as the only argument.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "vmoba/error.hpp"
#include "vmoba/selection.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: fuzz_selection_seeds FOLDER\n";
    return 2;
  }
  using namespace vmoba;
  const auto cut = [](Grid grid, Block block) { return std::make_shared<const Partition>(grid, block); };
  const std::vector<Selection> seeds{
      Selection({{cut({1, 3, 4}, {1, 2, 2}), nullptr}}, 2),
      Selection({{cut({2, 3, 5}, {full, 2, 2}), cut({2, 3, 5}, Run{7})}}, 1),
      Selection({{cut({3, 1, 25}, Run{10}), nullptr}, {cut({1, 1, 2}, Block{}), nullptr}}, 1),
  };
  std::filesystem::create_directories(argv[1]);
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    Selection seed = seeds[i];
    for (std::int64_t c = 0; c < seed.blocks(0); ++c) seed.set(0, 0, c % seed.shape(0).rows(), c);
    std::ostringstream bytes;
    seed.save(bytes);
    std::ofstream file(std::string(argv[1]) + "/" + std::to_string(i), std::ios::binary);
    const std::string text = bytes.str();
    file.write(text.data(), static_cast<std::streamsize>(text.size()) - 8);  // without the checksum: see selection.cpp
    if (!file) return 3;
  }
  return 0;
}
