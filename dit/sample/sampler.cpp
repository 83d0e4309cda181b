// SPDX-License-Identifier: Apache-2.0
// Sampling: prompts and a seed to latents.
#include "dit/sample/sampler.hpp"

#include <torch/torch.h>

#include <filesystem>
#include <sstream>

#include "dit/clock.hpp"
#include "dit/data/dataset.hpp"
#include "dit/train/checkpoint.hpp"
#include "dit/train/flow.hpp"
#include "dit/train/noise.hpp"
#include "io/file.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

void check_context(const char* name, const at::Tensor& context, const Config& config) {
  if (!context.defined() || context.dim() != 3 || context.size(2) != config.text_dim || context.size(0) < 1) {
    throw_argument(name, context.defined() ? shape_text(context.sizes()) : "nothing",
                   "must be [B, L, " + std::to_string(config.text_dim) + "]",
                   "embed the prompts with this checkpoint's embedding");
  }
}

}  // namespace

Checkpoint load_checkpoint_for_sampling(const std::string& directory, bool averaged) {
  Checkpoint loaded;
  const std::string folder = find_checkpoint(directory);
  if (has_state(folder)) {
    const CheckpointState state = read_state(folder);
    loaded.trained = state.options;
    loaded.step = state.step;
  }
  loaded.folder = averaged ? folder + "/ema" : folder;
  if (averaged && !std::filesystem::exists(loaded.folder + "/config.json")) {
    throw_file(folder, "holds no averaged weights", "leave --ema out, or train with --ema 0.999");
  }
  loaded.model = load_finite_model(loaded.folder);
  loaded.model->eval();
  if (has_text_embedding(loaded.folder)) {
    loaded.text = load_text_embedding(loaded.folder);
    if (loaded.text->text_dim() != loaded.model->config().text_dim) {
      throw_file(loaded.folder + "/" + text_embedding_file,
                 "has width " + std::to_string(loaded.text->text_dim()) + ", the model's config.json says text_dim " +
                     std::to_string(loaded.model->config().text_dim),
                 "use the files of one checkpoint");
    }
  }
  return loaded;
}

Sampled sample(WanModel& model, const at::Tensor& context, const at::Tensor& null_context, const SampleOptions& options,
               const std::function<bool(const SampleStep&)>& on_step) {
  const Config& config = model->config();
  const bool guided = options.guidance != 1;
  check_context("context", context, config);
  if (guided) {
    check_context("null_context", null_context, config);
    if (null_context.sizes() != context.sizes()) {
      throw_argument("null_context", shape_text(null_context.sizes()),
                     "must have the shape of context " + shape_text(context.sizes()),
                     "pad the shorter one with zero rows");
    }
  }
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::int64_t patch = config.patch_size[axis];
    if (options.latent[axis] < 1 || options.latent[axis] % patch != 0) {
      throw_argument("latent", shape_text(options.latent),
                     "must be multiples of the patch " + shape_text(config.patch_size),
                     "use " + std::to_string((std::max<std::int64_t>(options.latent[axis], 0) / patch + 1) * patch) +
                         " on axis " + "TYX"[axis]);
    }
  }
  const std::vector<double> times = options.times == SampleOptions::Times::wan
                                        ? wan_times(options.steps, options.shift)
                                        : euler_times(options.steps, options.shift);
  const torch::NoGradGuard no_grad;
  const auto start = Clock::now();
  const std::int64_t batch = context.size(0);
  std::vector<at::Tensor> noise;
  for (std::int64_t b = 0; b < batch; ++b) {
    noise.push_back(normal_tensor({config.in_channels, options.latent[0], options.latent[1], options.latent[2]},
                                  {options.seed + static_cast<std::uint64_t>(b), Purpose::sampling, 0}));
  }
  at::Tensor x = at::stack(noise);
  const at::Tensor contexts = guided ? at::cat({context, null_context}) : context;
  Sampled result;
  model->record_density(true);
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const auto begin = Clock::now();
    const double s = times[static_cast<std::size_t>(step)];
    const at::Tensor input = guided ? at::cat({x, x}) : x;
    const at::Tensor timestep = at::full({input.size(0)}, 1000.0 * s, at::kFloat);
    at::Tensor velocity = model
                              ->forward(input, timestep, contexts, {},
                                        {.use = Schedule::Use::sampling, .step = step, .steps = options.steps})
                              .to(at::kFloat);
    if (guided) {
      const at::Tensor with = velocity.narrow(0, 0, batch), without = velocity.narrow(0, batch, batch);
      velocity = without + options.guidance * (with - without);
    }
    x = x + (times[static_cast<std::size_t>(step) + 1] - s) * velocity;
    SampleStep report{.step = step + 1, .steps = options.steps, .time = s, .seconds = seconds_since(begin)};
    report.density = model->last_density();
    for (const double density : report.density) report.dense = report.dense && density >= 1;
    result.steps.push_back(report);
    if (on_step && !on_step(report)) {
      model->record_density(false);
      return result;
    }
  }
  model->record_density(false);
  result.latents = x;
  result.seconds = seconds_since(start);
  return result;
}

at::Tensor embed_prompts(TextEmbedding& text, const std::vector<std::string>& prompts) {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> ids;
  for (const std::string& prompt : prompts) ids.push_back(caption_ids(prompt, text->length()));
  return text->forward(at::stack(ids));
}

std::vector<std::string> read_prompts(const std::string& path) {
  const std::string bytes = io::without_byte_order_mark(io::read_file(path, 16ull << 20));
  if (!io::is_utf8(bytes)) throw_file(path, "is not UTF-8 text", "save the prompts as UTF-8, one a line");
  std::vector<std::string> prompts;
  std::istringstream lines(bytes);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && line[0] != '#') prompts.push_back(line);
  }
  if (prompts.empty()) throw_file(path, "holds no prompt", "write one prompt a line");
  return prompts;
}

void write_clip(const std::string& path, const at::Tensor& rgb, double fps) {
  const at::Tensor packed = rgb.contiguous();
  io::Frames frames{.frames = packed.size(0), .height = packed.size(1), .width = packed.size(2), .fps = fps};
  frames.rgb.assign(packed.data_ptr<std::uint8_t>(), packed.data_ptr<std::uint8_t>() + packed.numel());
  io::write_video(path, frames);
}

at::Tensor side_by_side(const at::Tensor& left, const at::Tensor& right) {
  if (left.sizes() != right.sizes()) {
    throw_argument("right", shape_text(right.sizes()), "must have the shape of left " + shape_text(left.sizes()),
                   "sample both at one size");
  }
  const at::Tensor gap = at::full({left.size(0), left.size(1), 4, 3}, 255, at::kByte);
  return at::cat({left, gap, right}, 2);
}

std::string numbered_path(const std::string& path, std::size_t number, std::size_t count) {
  if (count <= 1) return path;
  const std::filesystem::path whole(path);
  const std::string extension = whole.extension().string(), number_text = "-" + std::to_string(number);
  std::string stem = path.substr(0, path.size() - extension.size());
  const bool folder = !stem.empty() && stem.back() == '/';
  if (folder) stem.pop_back();
  return stem + number_text + (folder ? "/" : "") + extension;
}

}  // namespace vmoba::dit
