// SPDX-License-Identifier: Apache-2.0
// vmoba train: train a video diffusion transformer on clips.
#include "dit/train/trainer.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cmath>
#include <csignal>
#include <memory>
#include <type_traits>

#include "dit/train/checkpoint.hpp"
#include "dit/train/distributed.hpp"
#include "tools/interrupt.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/plan_options.hpp"
#include "tools/verb.hpp"

namespace vmoba::tools {

namespace {

struct TrainArguments {
  dit::TrainOptions train;
  PlanOptions plan;
  bool json = false;
};

void declare(CLI::App& command, TrainArguments& options) {
  command.add_option("--out", options.train.out, "folder of the run: metrics.jsonl, checkpoints/")->required();
  command.add_flag(
      "--resume", options.train.resume,
      "continue the newest checkpoint of --out; what is left out stays as it was; of the options of attention, "
      "--policy to --dense-path, give all or none");
  options.plan.default_min_tokens = Schedule::automatic;
  options.plan.declare(command, "threshold:0.25", false);
  options.plan.declare_dense_path(command, false);
  dit::visit_fields(options.train, [&](const char* name, auto& field, const char* help, dit::Role) {
    using Field = std::remove_reference_t<decltype(field)>;
    const std::string option = std::string("--") + name;
    if constexpr (std::is_same_v<Field, bool>) {
      command.add_flag(option, field, help);
    } else if constexpr (std::is_same_v<Field, std::array<std::int64_t, 3>>) {
      command.add_option(option, field, help)->delimiter(',')->capture_default_str();
    } else if constexpr (std::is_same_v<Field, std::string>) {
      CLI::Option* const added = command.add_option(option, field, help);
      if (!field.empty()) added->capture_default_str();
    } else {
      command.add_option(option, field, help)->capture_default_str();
    }
  });
  command.add_flag("--json", options.json, json_help);
}

// A continued run: the saved options, and over them what stands on the command line.
dit::TrainOptions continued(const CLI::App& command, const TrainArguments& options) {
  const auto all = dit::checkpoints(options.train.out);
  if (all.empty()) return options.train;  // the trainer says what is wrong
  const dit::CheckpointState state = dit::read_state(all.back());
  dit::TrainOptions merged = state.options;
  merged.out = options.train.out;
  merged.resume = true;
  merged.stop_after = 0;  // of one call
  std::vector<const void*> given;
  dit::visit_fields(options.train,
                    [&](const char*, const auto& field, const char*, dit::Role) { given.push_back(&field); });
  std::size_t index = 0;
  dit::visit_fields(merged, [&](const char* name, auto& field, const char*, dit::Role) {
    using Field = std::remove_reference_t<decltype(field)>;
    const void* const source = given[index++];
    if (command.get_option(std::string("--") + name)->count() > 0) field = *static_cast<const Field*>(source);
  });
  if (options.plan.given(command)) merged.plan = options.plan.plan(command, nullptr);
  return merged;
}

std::string describe(const dit::AttentionPlan& plan, std::int64_t layers) {
  if (plan.dense)
    return plan.dense_path == dit::AttentionPlan::DensePath::engine ? "dense attention (engine)"
                                                                    : "dense attention (torch)";
  std::string text = "VMoBA";
  for (const LayerPolicy& layer : plan.cycle)
    text += fmt::format(" {} {}", to_text(layer.block), describe(layer.policy));
  std::string dense;
  for (const std::int64_t layer : plan.schedule.dense_layers)
    if (layer < layers) dense += fmt::format("{}{}", dense.empty() ? "" : ", ", layer);
  return dense.empty() ? text : text + "; layers " + dense + " dense";
}

Json to_json(const dit::TrainResult& result, const std::string& out) {
  using Outcome = dit::TrainResult::Outcome;
  return {{"outcome", result.outcome == Outcome::finished      ? "finished"
                      : result.outcome == Outcome::interrupted ? "interrupted"
                                                               : "diverged"},
          {"steps", result.step},
          {"loss", finite_or_null(result.loss)},
          {"smoothed", finite_or_null(result.smoothed)},
          {"first_validation", finite_or_null(result.first_validation)},
          {"last_validation", finite_or_null(result.last_validation)},
          {"median_step_seconds", result.median_step_seconds},
          {"tokens_per_second", result.tokens_per_second},
          {"tokens", result.tokens},
          {"parameters", result.parameters},
          {"out", out},
          {"checkpoint", result.checkpoint}};
}

int train(const CLI::App& command, TrainArguments& options) {
  dit::TrainOptions asked = options.train;
  if (asked.resume) {
    asked = continued(command, options);
  } else {
    asked.plan = options.plan.plan(command, nullptr);
  }
  const std::shared_ptr<dit::Group> group = dit::Group::from_environment(asked.sequence_parallel);
  const bool speaks = (!group || group->rank() == 0) && !options.json;

  // Started once the first validation is done, so that its time left is that of the steps.
  std::unique_ptr<Progress> progress;
  const auto line = [&](const std::string& text) {
    if (!speaks) return;
    if (Progress::terminal()) std::fputs("\r\033[K", stderr);
    print(text + "\n");
    std::fflush(stdout);
  };
  std::int64_t first_step = 0;
  dit::TrainCallbacks callbacks;
  callbacks.log = line;
  callbacks.stop = interrupted;
  callbacks.step = [&](const dit::StepReport& report) {
    if (!speaks) return;
    if (!progress) progress = std::make_unique<Progress>("train", report.steps - first_step);
    progress->advance(1, fmt::format("loss {:.4f} {:.2f} s/step {:.0f} tokens/s", report.smoothed, report.seconds,
                                     report.tokens_per_second));
    if (Progress::terminal() || report.density.empty()) return;
    double density = 0;
    for (const double layer : report.density) density += layer / static_cast<double>(report.density.size());
    line(
        fmt::format("step {}/{}  loss {:.4f}  smoothed {:.4f}  lr {:.2e}  |g| {:.2f}  {:.2f} s/step  {:.0f} tokens/s  "
                    "density {:.3f}  waiting {:.0f} %",
                    report.step, report.steps, report.loss, report.smoothed, report.lr, report.gradient_norm,
                    report.seconds, report.tokens_per_second, density, 100 * report.waiting));
  };
  callbacks.validation = [&](std::int64_t step, double loss, double averaged) {
    line(std::isnan(averaged)
             ? fmt::format("step {}  validation loss {:.4f}", step, loss)
             : fmt::format("step {}  validation loss {:.4f}, of averaged weights {:.4f}", step, loss, averaged));
  };
  callbacks.checkpoint = [&](const std::string& path) { line("saved " + path); };

  watch_interrupts({SIGINT, SIGTERM});
  at::set_num_threads(static_cast<int>(thread_count(asked.threads)));
  dit::Trainer trainer(asked, callbacks, group);
  first_step = trainer.step();
  line(fmt::format("{}: {} layers of {} heads x {}, crops of {}x{}x{} latents, {}", asked.out,
                   trainer.options().model.num_layers, trainer.options().model.num_attention_heads,
                   trainer.options().model.attention_head_dim, asked.data.crop[0], asked.data.crop[1],
                   asked.data.crop[2], describe(trainer.options().plan, trainer.options().model.num_layers)));
  const dit::TrainResult result = trainer.run();
  progress.reset();
  if (options.json && (!group || group->rank() == 0)) print(to_json(result, asked.out));
  if (result.outcome == dit::TrainResult::Outcome::diverged) {
    if (!group || group->rank() == 0) fmt::print(stderr, "{}\n", result.message);
    return exit_check_failed;
  }
  if (interrupted()) {
    line(
        fmt::format("interrupted after step {}; continue with: vmoba train --out {} --resume", result.step, asked.out));
    return exit_interrupted;
  }
  line(fmt::format("trained {} of {} steps, {:.1f} M parameters, {} tokens a sample", result.step,
                   trainer.options().steps, static_cast<double>(result.parameters) * 1e-6, result.tokens));
  if (!std::isnan(result.last_validation))
    line(fmt::format("validation loss {:.4f} -> {:.4f}, {:.3f} s a step, {:.0f} tokens/s", result.first_validation,
                     result.last_validation, result.median_step_seconds, result.tokens_per_second));
  line(fmt::format(
      "look at it with: vmoba report {}; sample with: vmoba sample --checkpoint {} --prompt \"...\" --out clip.mp4",
      asked.out, asked.out));
  return exit_fine;
}

}  // namespace

Action setup_train(CLI::App& command) {
  auto options = std::make_shared<TrainArguments>();
  declare(command, *options);
  command.footer(
      "Example: vmoba train --data videos --out run --steps 200\n"
      "Many processes: torchrun --no-python --nproc-per-node 2 vmoba train --batch 2\n"
      "Ctrl-C finishes the step, saves and exits with 130; a second one stops at once.");
  return [&command, options] { return train(command, *options); };
}

}  // namespace vmoba::tools
