// SPDX-License-Identifier: Apache-2.0
// vmoba analyze: the three attention analyses of the paper on a checkpoint and a clip, and the selections it would
// make.
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>

#include "dit/data/dataset.hpp"
#include "dit/data/tokenizer.hpp"
#include "dit/model/plan.hpp"
#include "dit/sample/sampler.hpp"
#include "io/file.hpp"
#include "io/safetensors.hpp"
#include "io/video.hpp"
#include "tools/analyze/attention_analysis.hpp"
#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/picture.hpp"
#include "tools/plan_options.hpp"
#include "tools/verb.hpp"
#include "torch/attention.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

struct AnalyzeArguments {
  std::string checkpoint, clip, prompt, grid, out = "analysis";
  double sigma = 0.5, start = 0;
  std::int64_t queries = 256, seed = 1, threads = 0;
  PlanOptions plan;
  bool json = false;
};

// What one layer would attend: the grid, seen from a few tokens, and the density of each head.
struct Chosen {
  std::string block, policy;
  std::vector<double> density;
  at::Tensor maps;  // float [Q, T, Y, X]: share of heads in which the query attends the token
};

std::vector<std::int64_t> looked_at(const Grid& grid) {
  const auto token = [&](double t, double y, double x) {
    return (static_cast<std::int64_t>(t * grid.t) * grid.y + static_cast<std::int64_t>(y * grid.y)) * grid.x +
           static_cast<std::int64_t>(x * grid.x);
  };
  return {token(0.5, 0.5, 0.5), token(0.25, 0.3, 0.25), token(0.75, 0.7, 0.75)};
}

Chosen choose(const ops::Spec& spec, const at::Tensor& q, const at::Tensor& k, const Grid& grid) {
  const at::Tensor bits = ops::select(q, k, spec);
  const Problem problem = ops::problem_of(q, k, spec);
  const Selection selection = ops::selection_of(bits, problem);
  Chosen out{to_text(spec.block), describe(spec.policy), {}, {}};
  const Partition& partition = *problem.sample(0).partition;
  const std::vector<std::int64_t> queries = looked_at(grid);
  out.maps = torch::zeros({static_cast<std::int64_t>(queries.size()), grid.tokens()});
  for (std::int64_t h = 0; h < problem.heads(); ++h) {
    out.density.push_back(selection.density(0, h));
    for (std::size_t i = 0; i < queries.size(); ++i) {
      float* map = out.maps.data_ptr<float>() + static_cast<std::int64_t>(i) * grid.tokens();
      for (std::int64_t token = 0; token < grid.tokens(); ++token)
        if (selection.test(0, h, queries[i], partition.own(token)))
          map[token] += 1.0F / static_cast<float>(problem.heads());
    }
  }
  out.maps = out.maps.reshape({static_cast<std::int64_t>(queries.size()), grid.t, grid.y, grid.x});
  return out;
}

// rgb uint8 [F, 8 Y, 8 X, 3] of the clip, or a rendered one.
at::Tensor frames_of(const AnalyzeArguments& options, const std::array<std::int64_t, 3>& latent, double fps) {
  const std::int64_t frames = 4 * (latent[0] - 1) + 1, height = 8 * latent[1], width = 8 * latent[2];
  if (options.clip.empty())
    return dit::render_clip(static_cast<std::uint64_t>(options.seed), frames, height, width).rgb;
  const io::Frames clip = io::read_video(
      options.clip, {.fps = fps, .height = height, .width = width, .max_frames = frames, .start = options.start});
  if (clip.frames < frames)
    throw_file(options.clip, fmt::format("has {} frames where {} are needed", clip.frames, frames),
               "give a longer clip, or fewer latents in time with --grid T,Y,X");
  return torch::from_blob(const_cast<std::uint8_t*>(clip.rgb.data()), {clip.frames, clip.height, clip.width, 3},
                          torch::kUInt8)
      .clone();
}

double mean(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) /
         static_cast<double>(std::max<std::size_t>(values.size(), 1));
}
double quantile(std::vector<float> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

void draw(const std::vector<LayerAnalysis>& layers, const std::string& out) {
  const auto rows = static_cast<std::int64_t>(layers.size()), heads = static_cast<std::int64_t>(layers[0].heads.size());
  const std::int64_t cell = std::clamp<std::int64_t>(480 / std::max(rows, heads), 8, 48);
  // (a) layers by heads, one picture a neighbourhood, the same colours in all three.
  std::array<std::vector<double>, 3> lift;
  double highest = 1;
  std::vector<double> pairs;
  for (const LayerAnalysis& layer : layers)
    for (const HeadAnalysis& head : layer.heads) {
      for (int kind = 0; kind < 3; ++kind) {
        lift[kind].push_back(head.lift[kind]);
        highest = std::max(highest, head.lift[kind]);
      }
      pairs.push_back(head.half_pairs / head.all_pairs);
    }
  std::vector<Picture> kinds;
  for (const auto& values : lift) kinds.push_back(heat_map(values, rows, heads, 0, highest, cell));
  write(sheet(kinds, 3, 12), out + "/neighbourhoods.png");
  // (b) a band a layer: heads by sampled queries.
  std::vector<Picture> bands;
  for (const LayerAnalysis& layer : layers) {
    std::vector<double> values;
    for (const HeadAnalysis& head : layer.heads)
      values.insert(values.end(), head.top_quarter.begin(), head.top_quarter.end());
    bands.push_back(heat_map(values, heads, static_cast<std::int64_t>(layer.heads[0].top_quarter.size()), 0.25, 1, 4));
  }
  write(sheet(bands, 1, 8), out + "/top_quarter.png");
  // (c) layers by heads: share of all pairs that holds half of the attention; 0.5 is uniform attention.
  write(heat_map(pairs, rows, heads, 0, 0.5, cell), out + "/half_pairs.png");
}

void save_selections(const std::vector<Chosen>& chosen, const at::Tensor& rgb, const Grid& grid,
                     const std::string& path) {
  std::vector<at::Tensor> alive;
  std::vector<io::TensorData> tensors;
  const auto add = [&](const std::string& name, const char* dtype, const at::Tensor& tensor) {
    alive.push_back(tensor.contiguous());
    tensors.push_back({name, dtype, tensor.sizes().vec(), alive.back().data_ptr()});
  };
  for (std::size_t layer = 0; layer < chosen.size(); ++layer)
    if (chosen[layer].maps.defined()) add(fmt::format("layer{}", layer), "F32", chosen[layer].maps);
  // One frame for each latent time: the last of those it stands for.
  std::vector<std::int64_t> times;
  const std::int64_t latent_frames = (rgb.size(0) + 3) / 4;
  for (std::int64_t t = 0; t < grid.t; ++t)
    times.push_back(std::min(rgb.size(0) - 1, 4 * ((2 * t + 1) * latent_frames / (2 * grid.t))));
  add("frames", "U8", rgb.index_select(0, torch::tensor(times)));
  add("queries", "I64", torch::tensor(looked_at(grid)));
  io::write_safetensors(path, tensors, {{"grid", to_text(grid)}});
}

int analyze(const AnalyzeArguments& options, const CLI::App& command) {
  if (!(options.sigma >= 0 && options.sigma <= 1))
    throw_argument("--sigma", fmt::format("{}", options.sigma), "is outside 0..1",
                   "use the share of noise, for example 0.5");
  if (options.queries < 1)
    throw_argument("--queries", std::to_string(options.queries), "is below 1", "use for example 256");
  at::set_num_threads(static_cast<int>(thread_count(options.threads)));
  dit::Checkpoint checkpoint = dit::load_checkpoint_for_sampling(options.checkpoint);
  const dit::Config& config = checkpoint.model->config();
  std::array<std::int64_t, 3> latent{12, 12, 20};
  if (checkpoint.trained) latent = checkpoint.trained->data.crop;
  if (!options.grid.empty()) {
    const Grid asked = parse_grid(options.grid, "--grid");
    latent = {asked.t, asked.y, asked.x};
  }
  for (int axis = 0; axis < 3; ++axis)
    if (latent[axis] % config.patch_size[axis] != 0)
      throw_argument(
          "--grid", fmt::format("{},{},{}", latent[0], latent[1], latent[2]), "is not a multiple of the patch",
          fmt::format("use multiples of {},{},{}", config.patch_size[0], config.patch_size[1], config.patch_size[2]));
  const auto tokenizer = dit::make_dct_tokenizer();
  if (config.in_channels != tokenizer->channels())
    throw_file(checkpoint.folder,
               fmt::format("wants {} channels where the tokenizer gives {}", config.in_channels, tokenizer->channels()),
               "analyze a model trained with this program's tokenizer, or a text-to-video checkpoint of 16 channels");
  const at::Tensor rgb = frames_of(options, latent, checkpoint.trained ? checkpoint.trained->data.fps : 0);
  const at::Tensor clean = tokenizer->encode(rgb).unsqueeze(0);
  torch::Generator random = at::detail::createCPUGenerator(static_cast<std::uint64_t>(options.seed));
  const at::Tensor noise = torch::randn(clean.sizes(), random);
  const at::Tensor noisy = (1 - options.sigma) * clean + options.sigma * noise;
  const torch::NoGradGuard no_grad;
  at::Tensor context;
  if (checkpoint.text) {
    context = dit::embed_prompts(checkpoint.text, {options.prompt});
  } else {
    if (!options.prompt.empty())
      throw_argument("--prompt", options.prompt, "cannot be embedded: the checkpoint has no text embedding of ours",
                     "leave it out");
    context = torch::zeros({1, 64, config.text_dim});
  }

  // Attention as trained (or dense); what the plan of --policy would choose is looked at beside it.
  const dit::AttentionPlan* trained =
      checkpoint.trained && !checkpoint.trained->plan.dense ? &checkpoint.trained->plan : nullptr;
  const dit::AttentionPlan plan = options.plan.plan(command, trained);
  const Grid grid = checkpoint.model->token_grid(noisy);
  std::vector<LayerAnalysis> layers;
  std::vector<Chosen> chosen(config.num_layers);
  {
    Progress bar("analyze", config.num_layers);
    checkpoint.model->set_probe([&](std::int64_t layer, const at::Tensor& q, const at::Tensor& k) {
      layers.push_back(analyze_layer(layer, q, k, grid, options.queries));
      if (const auto spec = dit::sparse_call(plan, layer, grid, {})) chosen[layer] = choose(*spec, q, k, grid);
      bar.advance();
    });
    const at::Tensor velocity = checkpoint.model->forward(noisy, torch::full({1}, 1000 * options.sigma), context);
    if (!at::isfinite(velocity).all().item<bool>())
      throw_file(checkpoint.folder, "gives values that are not finite", "use another checkpoint");
  }
  if (layers.empty() || layers[0].heads.empty())
    throw Error(Error::Kind::unsupported, "--checkpoint", options.checkpoint, "gave no queries and keys to look at",
                "use a model with at least one layer");

  io::make_directories(options.out);
  draw(layers, options.out);
  save_selections(chosen, rgb, grid, options.out + "/selections.safetensors");
  Json out = {{"format", "vmoba-analysis-1"},
              {"machine", to_json(machine())},
              {"checkpoint", checkpoint.folder},
              {"step", checkpoint.step},
              {"clip", options.clip.empty() ? "rendered" : std::filesystem::path(options.clip).filename().string()},
              {"sigma", options.sigma},
              {"grid", {grid.t, grid.y, grid.x}},
              {"tokens", grid.tokens()},
              {"queries_sampled", std::min(options.queries, grid.tokens())},
              {"layers", Json::array()}};
  Table table({"layer", "1D", "2D", "3D", "top 25 %", "p10..p90", "half in", "least..most", "density"});
  for (const LayerAnalysis& layer : layers) {
    Json one = {{"layer", layer.layer}, {"heads", Json::array()}};
    std::array<double, 3> lift{};
    std::vector<float> top;
    double least = 1e300, most = 0, pairs = 0;
    for (const HeadAnalysis& head : layer.heads) {
      for (int kind = 0; kind < 3; ++kind) lift[kind] += head.lift[kind] / static_cast<double>(layer.heads.size());
      top.insert(top.end(), head.top_quarter.begin(), head.top_quarter.end());
      least = std::min(least, head.half_pairs);
      most = std::max(most, head.half_pairs);
      pairs += head.half_pairs / static_cast<double>(layer.heads.size());
      one["heads"].push_back({{"mass_1d_2d_3d", head.mass},
                              {"lift_1d_2d_3d", head.lift},
                              {"top_quarter_mean", mean(head.top_quarter)},
                              {"top_quarter_p10", quantile(head.top_quarter, 0.1)},
                              {"top_quarter_p90", quantile(head.top_quarter, 0.9)},
                              {"half_pairs", head.half_pairs},
                              {"all_pairs", head.all_pairs}});
    }
    const Chosen& pick = chosen[layer.layer];
    double density = 0;
    for (const double value : pick.density) density += value / static_cast<double>(pick.density.size());
    if (!pick.density.empty())
      one["selection"] = {{"block", pick.block}, {"policy", pick.policy}, {"density", pick.density}};
    const double all = layer.heads[0].all_pairs;
    table.add({std::to_string(layer.layer), fmt::format("{:.2f}x", lift[0]), fmt::format("{:.2f}x", lift[1]),
               fmt::format("{:.2f}x", lift[2]), fmt::format("{:.1f} %", 100 * mean(top)),
               fmt::format("{:.0f}..{:.0f} %", 100 * quantile(top, 0.1), 100 * quantile(top, 0.9)),
               fmt::format("{:.2f} %", 100 * pairs / all),
               fmt::format("{:.1f}..{:.1f} %", 100 * least / all, 100 * most / all),
               pick.density.empty() ? "dense" : fmt::format("{:.3f}", density)});
    out["layers"].push_back(one);
  }
  io::write_file(options.out + "/analysis.json", out.dump(1) + "\n");
  if (options.json) {
    print(out);
    return exit_fine;
  }
  print(fmt::format("{} at step {}\n{} tokens ({}), noise {:g}, clip {}\n\n", checkpoint.folder, checkpoint.step,
                    grid.tokens(), to_text(grid), options.sigma, out["clip"].get<std::string>()));
  print(table);
  print(
      fmt::format("\n1D, 2D, 3D: attention on the keys near in time, in space, in both, over what\n"
                  "uniform attention would put there.\n"
                  "Top 25 %: attention on a query's best quarter of the keys; p10..p90 of queries.\n"
                  "Half in: share of all query-key pairs that holds half of the attention;\n"
                  "least..most: the same over the heads. Density: of what the policy selects.\n"
                  "{0}/ now has neighbourhoods.png, top_quarter.png,\n"
                  "half_pairs.png, analysis.json, selections.safetensors\n",
                  options.out));
  return exit_fine;
}

}  // namespace

Action setup_analyze(CLI::App& command) {
  auto options = std::make_shared<AnalyzeArguments>();
  command
      .add_option("--checkpoint", options->checkpoint, "a training run, one of its checkpoints, or a diffusers folder")
      ->required();
  command.add_option("--clip", options->clip, "a video file; left out: a rendered clip");
  command.add_option("--start", options->start, "seconds into the clip")->capture_default_str();
  command.add_option("--prompt", options->prompt, "caption of the clip; left out: none");
  command.add_option("--grid", options->grid, "latents T,Y,X; left out: those of the training run");
  command.add_option("--sigma", options->sigma, "share of noise in the latents, 0..1")->capture_default_str();
  command.add_option("--queries", options->queries, "queries looked at in every head, spread over the clip")
      ->capture_default_str();
  command.add_option("--seed", options->seed, "seed of the noise and of a rendered clip")->capture_default_str();
  command.add_option("--threads", options->threads, threads_help)->capture_default_str();
  options->plan.declare(command, "as in training, else threshold:0.25", true);
  command.add_option("--out", options->out, "folder of pictures, analysis.json and selections.safetensors")
      ->capture_default_str();
  command.add_flag("--json", options->json, json_help);
  return [options, &command] { return analyze(*options, command); };
}

}  // namespace vmoba::tools
