// SPDX-License-Identifier: Apache-2.0
// vmoba sample: clips from a checkpoint and prompts; dense and sparse side by side.
#include "dit/sample/sampler.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <memory>

#include "dit/sample/quality.hpp"
#include "dit/train/tensors.hpp"
#include "io/file.hpp"
#include "tools/help.hpp"
#include "tools/interrupt.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/plan_options.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

struct SampleArguments {
  std::string checkpoint, prompt_file, negative, out, latents, times = "euler";
  std::vector<std::string> prompts, embeddings;
  std::int64_t frames = 0, height = 0, width = 0, batch = 1, threads = 0;
  double fps = 0;
  dit::SampleOptions sample{.guidance = 3};
  PlanOptions plan;
  bool compare = false, ema = false, json = false;
};

// Everything one way of sampling (dense, or as the plan has it) gave.
struct Way {
  std::vector<at::Tensor> latents, clips;  // per prompt
  std::vector<dit::SampleStep> steps;      // seconds summed over batches, density of the last
  double seconds = 0;
};

Json to_json(const Way& way) {
  Json steps = Json::array();
  for (const dit::SampleStep& step : way.steps)
    steps.push_back({{"step", step.step},
                     {"time", step.time},
                     {"seconds", step.seconds},
                     {"dense", step.dense},
                     {"density", step.density}});
  return {{"seconds", way.seconds}, {"steps", steps}};
}

double mean_density(const dit::SampleStep& step) {
  double sum = 0;
  for (const double layer : step.density) sum += layer;
  return step.density.empty() ? 1 : sum / static_cast<double>(step.density.size());
}

// Contexts of all prompts and the null context, [L, text_dim] each.
struct Contexts {
  std::vector<at::Tensor> rows;
  at::Tensor null;
  std::vector<std::string> prompts;
};

Contexts contexts_of(const SampleArguments& options, dit::Checkpoint& checkpoint) {
  Contexts contexts;
  const std::int64_t width = checkpoint.model->config().text_dim;
  if (!options.embeddings.empty()) {
    if (!options.prompts.empty() || !options.prompt_file.empty())
      throw_argument("--embedding", options.embeddings[0], "stands beside prompts",
                     "give prompts or embeddings, not both");
    for (const std::string& path : options.embeddings) {
      contexts.rows.push_back(dit::read_embedding(path, width));
      contexts.prompts.push_back(path);
    }
    std::int64_t longest = 0;
    for (const at::Tensor& row : contexts.rows) longest = std::max(longest, row.size(0));
    for (at::Tensor& row : contexts.rows) row = at::constant_pad_nd(row, {0, 0, 0, longest - row.size(0)});
    contexts.null = at::zeros({longest, width});
    if (!options.negative.empty()) {
      const at::Tensor negative = dit::read_embedding(options.negative, width);
      if (negative.size(0) > longest) {
        for (at::Tensor& row : contexts.rows) row = at::constant_pad_nd(row, {0, 0, 0, negative.size(0) - longest});
        longest = negative.size(0);
      }
      contexts.null = at::constant_pad_nd(negative, {0, 0, 0, longest - negative.size(0)});
    }
    return contexts;
  }
  contexts.prompts = options.prompts;
  if (!options.prompt_file.empty())
    for (const std::string& prompt : dit::read_prompts(options.prompt_file)) contexts.prompts.push_back(prompt);
  if (contexts.prompts.empty()) contexts.prompts.emplace_back();
  if (checkpoint.text.is_empty()) {
    throw_file(checkpoint.folder, "has no text_embedding.safetensors, so it cannot read prompts",
               "give --embedding FILE with the text encoder's output [L, " + std::to_string(width) + "]");
  }
  const at::Tensor rows = dit::embed_prompts(checkpoint.text, contexts.prompts);
  for (std::int64_t i = 0; i < rows.size(0); ++i) contexts.rows.push_back(rows[i]);
  contexts.null = dit::embed_prompts(checkpoint.text, {options.negative})[0];
  return contexts;
}

// False when interrupted.
bool sample_way(const SampleArguments& options, dit::Checkpoint& checkpoint, const Contexts& contexts,
                const dit::Tokenizer& tokenizer, const std::string& label, Way& way) {
  const auto count = static_cast<std::int64_t>(contexts.rows.size());
  const std::int64_t batches = (count + options.batch - 1) / options.batch;
  std::unique_ptr<Progress> progress;
  if (!options.json) progress = std::make_unique<Progress>(label, batches * options.sample.steps);
  for (std::int64_t first = 0; first < count; first += options.batch) {
    const std::int64_t size = std::min(options.batch, count - first);
    const at::Tensor context =
        at::stack(at::TensorList(contexts.rows).slice(static_cast<std::size_t>(first), static_cast<std::size_t>(size)));
    dit::SampleOptions sample = options.sample;
    sample.seed += static_cast<std::uint64_t>(first);
    const dit::Sampled sampled = dit::sample(
        checkpoint.model, context, contexts.null.expand_as(context), sample, [&](const dit::SampleStep& step) {
          if (progress) progress->advance(1, fmt::format("density {:.3f}", mean_density(step)));
          return !interrupted();
        });
    if (!sampled.latents.defined()) return false;
    // NaN would decode to a black clip.
    if (!at::isfinite(sampled.latents).all().item<bool>())
      throw_file(checkpoint.folder, "gives latents that are not finite", "use another checkpoint, or less guidance");
    way.seconds += sampled.seconds;
    for (std::size_t i = 0; i < sampled.steps.size(); ++i) {
      if (i == way.steps.size()) {
        way.steps.push_back(sampled.steps[i]);
      } else {
        way.steps[i].seconds += sampled.steps[i].seconds;
      }
    }
    for (std::int64_t i = 0; i < size; ++i) {
      way.latents.push_back(sampled.latents[i].contiguous());
      way.clips.push_back(tokenizer.decode(way.latents.back()));
    }
  }
  return true;
}

// The size asked for in pixels, or that of the crops the model was trained on.
void choose_size(SampleArguments& options, const dit::Checkpoint& checkpoint, const dit::Tokenizer& tokenizer) {
  if (checkpoint.trained) options.sample.latent = checkpoint.trained->data.crop;
  if (options.frames == 0 && options.height == 0 && options.width == 0) return;
  const auto& latent = options.sample.latent;
  options.sample.latent = tokenizer.latent_shape(options.frames > 0 ? options.frames : 4 * (latent[0] - 1) + 1,
                                                 options.height > 0 ? options.height : 8 * latent[1],
                                                 options.width > 0 ? options.width : 8 * latent[2]);
}

// A prompt for a table: at most so many bytes, whole characters.
std::string shortened(const std::string& prompt, std::size_t bytes) {
  if (prompt.empty()) return "(none)";
  if (prompt.size() <= bytes) return prompt;
  std::size_t end = bytes - 3;
  while (end > 0 && (static_cast<unsigned char>(prompt[end]) & 0xC0) == 0x80) --end;
  return prompt.substr(0, end) + "...";
}

std::string with_suffix(const std::string& path, const std::string& suffix, const std::string& extension) {
  std::filesystem::path whole(path);
  const std::string old = whole.extension().string();
  std::string stem = path.substr(0, path.size() - old.size());
  while (stem.size() > 1 && stem.back() == '/') stem.pop_back();
  return stem + suffix + (extension.empty() ? old : extension);
}

// Before minutes of sampling: an ending that can be written. The folder is made when the model is there.
void check_out(const std::string& path) {
  if (path.empty()) return;
  const std::string extension = std::filesystem::path(path).extension().string();
  for (const char* known : {"", ".mp4", ".webm", ".gif", ".mkv"})
    if (extension == known) return;
  throw_argument("--out", path, "ends in " + extension + ", which is not written here",
                 "use .mp4, .webm, .gif, .mkv, or a folder for PNG frames");
}

void make_parent(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  if (!path.empty() && !parent.empty()) io::make_directories(parent.string());
}

int run_sample(const CLI::App& command, SampleArguments& options) {
  if (options.out.empty() && options.latents.empty())
    throw_argument("--out", "nothing", "is needed to write a clip",
                   "give --out clip.mp4, or --latents file.safetensors");
  check_out(options.out);
  if (options.batch < 1) throw_argument("--batch", std::to_string(options.batch), "must be at least 1", "use 1");
  if (options.fps < 0 || options.fps > 1000)
    throw_argument("--fps", std::to_string(options.fps), "must lie in 0..1000", "leave it out for the training rate");
  if (options.times != "euler" && options.times != "wan")
    throw_argument("--times", options.times, "is not a time grid", "use euler or wan");
  options.sample.times = options.times == "wan" ? dit::SampleOptions::Times::wan : dit::SampleOptions::Times::euler;
  at::set_num_threads(static_cast<int>(thread_count(options.threads)));

  const auto tokenizer = dit::make_dct_tokenizer();
  dit::Checkpoint checkpoint = dit::load_checkpoint_for_sampling(options.checkpoint, options.ema);
  choose_size(options, checkpoint, *tokenizer);
  if (options.fps == 0) options.fps = checkpoint.trained ? checkpoint.trained->data.fps : 16;
  const dit::AttentionPlan own = checkpoint.trained ? checkpoint.trained->plan : dit::AttentionPlan{};
  const dit::AttentionPlan plan = options.plan.given(command) ? options.plan.plan(command, &own) : own;
  dit::AttentionPlan dense = plan;
  dense.dense = true;
  if (options.compare && plan.dense)
    throw_argument("--compare", "dense", "needs a sparse policy to compare dense attention with",
                   "give --policy threshold:0.25, or a checkpoint trained with one");
  const Contexts contexts = contexts_of(options, checkpoint);
  const std::size_t count = contexts.rows.size();

  make_parent(options.out);
  make_parent(options.latents);
  watch_interrupts({SIGINT});
  Way dense_way, way;
  if (options.compare) {
    checkpoint.model->set_plan(dense);
    if (!sample_way(options, checkpoint, contexts, *tokenizer, "dense", dense_way)) return exit_interrupted;
  }
  checkpoint.model->set_plan(plan);
  if (!sample_way(options, checkpoint, contexts, *tokenizer, options.compare ? "sparse" : "sample", way))
    return exit_interrupted;

  Json json = {{"checkpoint", checkpoint.folder}, {"step", checkpoint.step},
               {"seed", options.sample.seed},     {"guidance", options.sample.guidance},
               {"shift", options.sample.shift},   {"latent", options.sample.latent},
               {"sample", to_json(way)},          {"clips", Json::array()}};
  if (options.compare) json["dense"] = to_json(dense_way);
  if (!options.latents.empty()) {
    dit::NamedTensors tensors;
    for (std::size_t i = 0; i < count; ++i) tensors.emplace_back("latents." + std::to_string(i), way.latents[i]);
    dit::save_tensors(options.latents, tensors, {{"tokenizer", tokenizer->identity()}});
    json["latents"] = options.latents;
  }
  std::vector<std::string> head{"prompt", "file", "flicker", "motion"};
  if (options.compare) head.insert(head.end(), {"PSNR", "SSIM"});
  Table table(head);
  // What the other columns leave of a terminal's.
  const std::size_t taken =
      (options.compare ? 37 : 19) + (options.out.empty() ? 4 : dit::numbered_path(options.out, count, count).size());
  const std::size_t prompt_columns = std::clamp<std::size_t>(text_columns - std::min(text_columns, taken), 12, 40);
  for (std::size_t i = 0; i < count; ++i) {
    Json clip = {{"prompt", contexts.prompts[i]},
                 {"flicker", finite_or_null(dit::flicker(way.clips[i]))},
                 {"frame_difference", dit::frame_difference(way.clips[i])}};
    const std::string path = options.out.empty() ? "" : dit::numbered_path(options.out, i + 1, count);
    if (!path.empty()) {
      dit::write_clip(path, options.compare ? dit::side_by_side(dense_way.clips[i], way.clips[i]) : way.clips[i],
                      options.fps);
      clip["file"] = path;
    }
    std::string psnr, ssim;
    if (options.compare) {
      const double difference = dit::psnr(dense_way.clips[i], way.clips[i]);
      clip["psnr"] = finite_or_null(difference);
      clip["ssim"] = dit::ssim(dense_way.clips[i], way.clips[i]);
      clip["latent_error"] =
          ((way.latents[i] - dense_way.latents[i]).norm() / dense_way.latents[i].norm()).item<double>();
      clip["dense_flicker"] = finite_or_null(dit::flicker(dense_way.clips[i]));
      clip["dense_frame_difference"] = dit::frame_difference(dense_way.clips[i]);
      psnr = fmt::format("{:.2f} dB", difference);
      ssim = fmt::format("{:.4f}", clip["ssim"].get<double>());
      if (!path.empty()) {
        const std::string left = with_suffix(path, "-dense", ""), right = with_suffix(path, "-sparse", "");
        dit::write_clip(left, dense_way.clips[i], options.fps);
        dit::write_clip(right, way.clips[i], options.fps);
        clip["dense_file"] = left;
        clip["sparse_file"] = right;
      }
    }
    const double flicker = dit::flicker(way.clips[i]);  // NaN where everything moves
    table.add({shortened(contexts.prompts[i], prompt_columns), path,
               std::isnan(flicker) ? "-" : fmt::format("{:.2f}", flicker),
               fmt::format("{:.2f}", dit::frame_difference(way.clips[i])), psnr, ssim});
    json["clips"].push_back(clip);
  }
  if (options.compare && !options.out.empty())
    io::write_file(with_suffix(options.out, "", ".json"), json.dump(2) + "\n");
  if (options.json) {
    print(json);
    return exit_fine;
  }
  print(table);
  if (options.compare) {
    print(fmt::format("dense {}, sparse {}: {:.2f}x; density by step:", seconds_text(dense_way.seconds),
                      seconds_text(way.seconds), dense_way.seconds / way.seconds));
    for (const dit::SampleStep& step : way.steps) print(fmt::format(" {:.2f}", mean_density(step)));
    print(std::string("\n"));
  } else {
    print(fmt::format("{} for {} steps\n", seconds_text(way.seconds), options.sample.steps));
  }
  print("flicker, motion: mean change from frame to frame where nothing moves, and of all\npixels, of 255\n");
  return exit_fine;
}

}  // namespace

Action setup_sample(CLI::App& command) {
  auto options = std::make_shared<SampleArguments>();
  command
      .add_option("--checkpoint", options->checkpoint,
                  "folder of a run, of one checkpoint, or a plain diffusers folder")
      ->required();
  command
      .add_option("--prompt", options->prompts,
                  "caption of the clip; may be given again for more clips; left out: none")
      ->take_all();
  command.add_option("--prompts", options->prompt_file, "file of prompts, one a line");
  command
      .add_option("--embedding", options->embeddings,
                  "safetensors file with a text encoder's output, instead of a prompt")
      ->take_all();
  command.add_option("--negative", options->negative,
                     "prompt to steer away from, a file with --embedding; left out: the empty prompt");
  command.add_option("--out", options->out,
                     "clip.mp4, .webm, .gif, .mkv, or folder/ for PNG frames; numbered when there are several");
  command.add_option("--latents", options->latents, "also write the latents into this safetensors file");
  command.add_option("--frames", options->frames, "frames of the clip; left out: as in training");
  command.add_option("--height", options->height, "pixels of the clip; left out: as in training");
  command.add_option("--width", options->width, "pixels of the clip; left out: as in training");
  command.add_option("--fps", options->fps, "frames a second of the written clip; left out: as in training");
  command.add_option("--steps", options->sample.steps, "Euler steps")->capture_default_str();
  command.add_option("--shift", options->sample.shift, "shift of the time grid: 3 at 480p, 5 at 720p")
      ->capture_default_str();
  command.add_option("--times", options->times, "time grid: euler (diffusers' FlowMatchEuler) or wan (Wan's pipeline)")
      ->capture_default_str();
  command.add_option("--guidance", options->sample.guidance, "classifier-free guidance; 1: none, half the time")
      ->capture_default_str();
  command.add_option("--seed", options->sample.seed, "clip i starts from noise of seed + i")->capture_default_str();
  command.add_option("--batch", options->batch, "prompts sampled together")->capture_default_str();
  options->plan.default_min_tokens = Schedule::automatic;
  options->plan.declare(command, "as in training, else dense", true);
  options->plan.declare_dense_path(command, true);
  command.add_option("--schedule", options->plan.schedule,
                     "which steps and layers are dense, how often a selection is refreshed: dense_steps=N, "
                     "dense_fraction=F (usually 0.25), dense_layers=A+B, min_tokens=N or auto, "
                     "refresh=N, apart by commas; left out: as in training");
  command.add_flag("--compare", options->compare,
                   "dense and sparse from the same seed: clips side by side, PSNR, SSIM, times");
  command.add_flag("--ema", options->ema, "use the averaged weights");
  command.add_option("--threads", options->threads, threads_help)->capture_default_str();
  command.add_flag("--json", options->json, json_help);
  command.footer("Example: vmoba sample --checkpoint run --prompt \"a red ball\" --out clip.mp4 --compare");
  return [&command, options] { return run_sample(command, *options); };
}

}  // namespace vmoba::tools
