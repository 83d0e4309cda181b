// SPDX-License-Identifier: Apache-2.0
// What a run leaves to be read: run.json and metrics.jsonl.
#include "dit/train/metrics.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "io/file.hpp"
#include "io/json.hpp"
#include "vmoba/error.hpp"
#include "vmoba/version.hpp"

namespace vmoba::dit {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

Metrics::Metrics(const std::string& out, std::int64_t step) : out_(out), path_(out + "/metrics.jsonl") {
  std::string kept;
  if (std::error_code ignored; std::filesystem::exists(path_, ignored)) {
    std::istringstream lines(io::read_file(path_, 1ull << 30));
    for (std::string text; std::getline(lines, text);) {
      // A line cut off by a crash does not parse and goes too.
      const Json json = io::parse_json<Json>(text);
      if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
      if (step == 0 || json["step"].get<std::int64_t>() > step) continue;
      kept += text + "\n";
      if (json.contains("elapsed") && json["elapsed"].is_number()) before_ = json["elapsed"].get<double>();
    }
  }
  io::write_file(path_, kept);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor_ < 0)
    throw_file(path_, std::string("cannot be written (") + std::strerror(errno) + ")", "choose another --out");
}

Metrics::~Metrics() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void Metrics::line(const std::string& text) {
  const std::string whole = text + "\n";
  std::size_t done = 0;
  while (done < whole.size()) {
    const ssize_t wrote = ::write(descriptor_, whole.data() + done, whole.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0)
      throw_file(path_, std::string("cannot be written (") + std::strerror(errno) + ")",
                 "free space and continue with --resume");
    done += static_cast<std::size_t>(wrote);
  }
}

void Metrics::write_run(const TrainOptions& options, std::int64_t parameters, std::int64_t tokens, std::int64_t threads,
                        std::int64_t ranks) {
  Json json;
  json["vmoba"] = std::string(version);
  json["parameters"] = parameters;
  json["tokens"] = tokens;
  json["threads"] = threads;
  json["ranks"] = ranks;
  json["options"] = Json::parse(options_json(options));
  io::write_file(out_ + "/run.json", json.dump(2) + "\n");
}

void Metrics::step(const StepReport& report, double elapsed) {
  Json json;
  json["step"] = report.step;
  json["loss"] = report.loss;
  json["smoothed"] = report.smoothed;
  json["lr"] = report.lr;
  json["gradient_norm"] = report.gradient_norm;
  json["tokens_per_second"] = report.tokens_per_second;
  json["density"] = report.density;
  json["seconds"] = {{"step", report.seconds},
                     {"data", report.data},
                     {"forward", report.forward},
                     {"backward", report.backward},
                     {"optimizer", report.optimizer}};
  json["waiting"] = report.waiting;
  json["peak_memory"] = report.peak_memory;
  json["elapsed"] = before_ + elapsed;
  line(json.dump());
}

void Metrics::validation(std::int64_t step, double loss, double averaged, double elapsed) {
  Json json;
  json["step"] = step;
  json["validation_loss"] = loss;
  if (!std::isnan(averaged)) json["validation_loss_ema"] = averaged;
  json["elapsed"] = before_ + elapsed;
  line(json.dump());
}

}  // namespace vmoba::dit
