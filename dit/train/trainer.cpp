// SPDX-License-Identifier: Apache-2.0
// The training loop.
#include "dit/train/trainer.hpp"

#include <sys/resource.h>
#include <torch/torch.h>

#include <ATen/autocast_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dit/clock.hpp"
#include "dit/model/plan.hpp"
#include "dit/train/checkpoint.hpp"
#include "dit/train/distributed.hpp"
#include "dit/train/flow.hpp"
#include "dit/train/metrics.hpp"
#include "dit/train/noise.hpp"
#include "io/file.hpp"
#include "vmoba/error.hpp"
#include "vmoba/version.hpp"

namespace vmoba::dit {
namespace {

std::int64_t peak_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

// Autocast to bfloat16 while it lives; nothing when off.
class Autocast {
 public:
  explicit Autocast(bool on) : on_(on) {
    if (!on_) return;
    was_ = at::autocast::is_autocast_enabled(at::kCPU);
    dtype_ = at::autocast::get_autocast_dtype(at::kCPU);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::clear_cache();  // holds bf16 copies of weights that the optimizer is about to change
    at::autocast::set_autocast_enabled(at::kCPU, was_);
    at::autocast::set_autocast_dtype(at::kCPU, dtype_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_, was_ = false;
  at::ScalarType dtype_ = at::kBFloat16;
};

// One sample of a batch of one, or several of them as one batch.
struct Samples {
  at::Tensor latents, ids, text;
};

Samples stack(const std::vector<Batch>& batches) {
  std::vector<at::Tensor> latents, ids, text;
  for (const Batch& batch : batches) {
    latents.push_back(batch.latents);
    if (batch.text_ids.defined()) ids.push_back(batch.text_ids);
    if (batch.text.defined()) text.push_back(batch.text);
  }
  Samples samples{at::cat(latents), {}, {}};
  if (!ids.empty()) samples.ids = at::cat(ids);
  if (!text.empty()) samples.text = at::cat(text);
  return samples;
}

}  // namespace

struct Trainer::State {
  TrainOptions options;
  TrainCallbacks callbacks;
  std::shared_ptr<Group> group;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<Dataset> dataset;
  WanModel model{nullptr};
  TextEmbedding text{nullptr};
  bool uses_text = false;
  NamedTensors weights;
  std::unique_ptr<AdamW> optimizer;
  std::unique_ptr<AveragedWeights> averages;
  std::unique_ptr<GradientReducer> reducer;
  FlowOptions flow;
  std::int64_t step = 0, samples = 0, threads = 0;
  double smoothed = 0;
  std::string last_checkpoint;

  std::int64_t data_rank() const { return group ? group->data_rank() : 0; }
  std::int64_t data_size() const { return group ? group->data_size() : 1; }
  bool first_rank() const { return !group || group->rank() == 0; }

  void log(const std::string& line) const {
    if (first_rank() && callbacks.log) callbacks.log(line);
  }

  CheckpointParts parts() { return {&model, uses_text ? &text : nullptr, optimizer.get(), averages.get()}; }

  void check_division() const {
    const std::int64_t ranks = data_size();
    if (options.batch % ranks != 0) {
      const std::int64_t above = (options.batch / ranks + 1) * ranks;
      throw_argument("batch", std::to_string(options.batch),
                     "does not divide over " + std::to_string(ranks) + " data parallel ranks",
                     "use " + (options.batch > ranks ? std::to_string(above - ranks) + " or " : std::string()) +
                         std::to_string(above));
    }
    const std::int64_t share = options.sequence_parallel, heads = options.model.num_attention_heads,
                       tokens = sample_tokens();
    if (heads % share != 0 || tokens % share != 0) {
      std::string fits;
      for (std::int64_t n = 1; n <= heads; ++n) {
        if (heads % n == 0 && tokens % n == 0) fits += (fits.empty() ? "" : ", ") + std::to_string(n);
      }
      throw_argument("sequence-parallel", std::to_string(share),
                     "must divide " + std::to_string(heads) + " heads and " + std::to_string(tokens) + " tokens",
                     "use one of " + fits);
    }
  }

  std::int64_t sample_tokens() const {
    std::int64_t tokens = 1;
    for (std::size_t axis = 0; axis < 3; ++axis) tokens *= options.data.crop[axis] / options.model.patch_size[axis];
    return tokens;
  }

  // Rank 0 decodes and fills the cache; the others then read it. Latents lie with the run unless asked otherwise: the
  // folder of videos may be precious or read-only, and a hidden one elsewhere would grow unseen.
  void open_data() {
    tokenizer = make_dct_tokenizer();
    DataOptions data = options.data;
    if (data.cache.empty() && !data.directory.empty()) data.cache = options.out + "/latents";
    if (first_rank()) {
      data.log = callbacks.log;
      dataset = Dataset::open(data, tokenizer);
    }
    if (group) group->barrier();
    if (!first_rank()) dataset = Dataset::open(data, tokenizer);
    const Batch probe = dataset->batch(Dataset::Split::validation, 0, 1);
    uses_text = !probe.text.defined();
    if (!uses_text) options.model.text_dim = probe.text.size(2);
    if (probe.latents.size(1) != options.model.in_channels) {
      throw_argument("init", options.init,
                     "is a model of " + std::to_string(options.model.in_channels) + " latent channels, the data has " +
                         std::to_string(probe.latents.size(1)),
                     "use a text-to-video model");
    }
  }

  void build_model() {
    model = WanModel(options.model);
    init_weights(model, options.seed);
    if (uses_text) text = TextEmbedding(options.data.text_length, options.model.text_dim, options.seed);
    if (!options.init.empty() && !options.resume) {
      const std::string from = find_checkpoint(options.init);
      load_finite_weights(model, from);
      if (uses_text && has_text_embedding(from)) load_text_embedding_into(text, from);
    }
    model->set_activation_checkpointing(options.activation_checkpointing);
    model->train();
    weights = trained_weights(model, uses_text ? &text : nullptr);
    if (group) {
      // Ranks may have drawn the same weights, but machines differ in their last bits.
      const torch::NoGradGuard no_grad;
      for (auto& [name, weight] : weights) group->broadcast(weight);
      if (group->sequence_parallel()) model->set_sequence_parallel(group->sequence_parallel());
      reducer = std::make_unique<GradientReducer>(weights, group);
    }
    optimizer = std::make_unique<AdamW>(
        weights, AdamWOptions{.beta1 = options.beta1, .beta2 = options.beta2, .weight_decay = options.weight_decay});
    if (options.ema > 0) averages = std::make_unique<AveragedWeights>(weights, options.ema);
  }

  void resolve_dense_path() {
    if (options.plan.dense_path != AttentionPlan::DensePath::automatic) return;
    at::Tensor path = at::zeros({1});
    if (first_rank()) {
      const std::int64_t share = options.sequence_parallel;
      const auto best =
          measure_dense_path(options.batch / data_size(), sample_tokens(), options.model.num_attention_heads / share,
                             options.model.attention_head_dim, options.bf16 ? at::kBFloat16 : at::kFloat,
                             /*training=*/true);
      path.fill_(best == AttentionPlan::DensePath::engine ? 1 : 0);
    }
    if (group) group->broadcast(path);
    options.plan.dense_path =
        path.item<float>() > 0.5F ? AttentionPlan::DensePath::engine : AttentionPlan::DensePath::torch_sdpa;
  }

  // What automatic min_tokens decides is decided once and kept with the run.
  void resolve_min_tokens() {
    if (options.plan.schedule.min_tokens != Schedule::automatic) return;
    const std::int64_t layers = options.model.num_layers;
    AttentionPlan plan = options.plan;
    const auto [pt, py, px] = options.model.patch_size;
    const auto& crop = options.data.crop;
    dit::resolve_min_tokens(plan, layers, {crop[0] / pt, crop[1] / py, crop[2] / px},
                            {.batch = options.batch / data_size(),
                             .heads = options.model.num_attention_heads / options.sequence_parallel,
                             .dim = options.model.attention_head_dim},
                            Schedule::Use::training);
    at::Tensor dense = at::zeros({layers});
    for (const std::int64_t layer : plan.schedule.dense_layers)
      if (layer < layers) dense[layer].fill_(1);
    if (group) group->broadcast(dense);
    std::string made_dense;
    for (std::int64_t layer = 0; layer < layers; ++layer)
      if (dense[layer].item<float>() > 0.5F && options.plan.schedule.dense_layers.insert(layer).second)
        made_dense += (made_dense.empty() ? "" : ", ") + std::to_string(layer);
    options.plan.schedule.min_tokens = 0;
    if (!made_dense.empty())
      log("dense in layers " + made_dense + ": at " + std::to_string(sample_tokens()) +
          " tokens sparse attention is not predicted to be quicker there; --min-tokens 0 makes them sparse all the "
          "same");
  }

  at::Tensor context_of(const Samples& batch, const std::vector<bool>& dropped) {
    if (!uses_text) {
      at::Tensor context = batch.text.clone();
      for (std::size_t i = 0; i < dropped.size(); ++i) {
        if (dropped[i]) context[static_cast<std::int64_t>(i)].zero_();
      }
      return context;
    }
    at::Tensor ids = batch.ids.clone();
    for (std::size_t i = 0; i < dropped.size(); ++i) {
      if (dropped[i]) ids[static_cast<std::int64_t>(i)].fill_(padding_id);
    }
    return text->forward(ids);
  }

  // Mean squared error of the velocity over a batch; noise and s per sample are given.
  at::Tensor loss_of(const Samples& batch, const std::vector<at::Tensor>& noises, const std::vector<double>& times,
                     const std::vector<bool>& dropped) {
    const at::Tensor noise = at::stack(noises), s = torch::tensor(times, at::kDouble).to(at::kFloat);
    at::Tensor prediction;
    {
      const Autocast autocast(options.bf16);
      prediction = model->forward(noised(batch.latents, noise, s), s * 1000.0, context_of(batch, dropped));
    }
    return at::mse_loss(prediction.to(at::kFloat), flow_target(batch.latents, noise));
  }

  double validation_loss() {
    const torch::NoGradGuard no_grad;
    const std::vector<double> times = validation_times(flow, options.validation_samples);
    double sum = 0;
    for (std::int64_t i = data_rank(); i < options.validation_samples; i += data_size()) {
      const Samples sample = stack({dataset->batch(Dataset::Split::validation, i, 1)});
      const auto shape = sample.latents.sizes().slice(1);
      const at::Tensor noise = normal_tensor(shape, {0, Purpose::validation_noise, static_cast<std::uint64_t>(i)});
      sum += loss_of(sample, {noise}, {times[static_cast<std::size_t>(i)]}, {false}).item<double>();
    }
    if (group) {
      at::Tensor total = torch::tensor({sum}, at::kDouble);
      group->all_reduce(total);
      sum = total.item<double>() / static_cast<double>(group->sequence_size());
    }
    return sum / static_cast<double>(options.validation_samples);
  }

  CheckpointState checkpoint_state() const {
    CheckpointState state;
    state.step = step;
    state.samples = samples;
    state.smoothed_loss = smoothed;
    state.threads = threads;
    state.dataset = dataset->identity();
    state.tokenizer = tokenizer->identity();
    state.options = options;
    return state;
  }

  void save() {
    if (first_rank()) {
      last_checkpoint = save_checkpoint(options.out, checkpoint_state(), parts(), options.keep);
      if (callbacks.checkpoint) callbacks.checkpoint(last_checkpoint);
    }
    if (group) group->barrier();
  }

  void continue_from(const std::string& folder, const CheckpointState& saved) {
    if (saved.dataset != dataset->identity()) {
      throw_argument("data", options.data.directory, "is not the data that " + folder + " was trained on",
                     "give the same files and data options, or start a new run with --init");
    }
    if (saved.tokenizer != tokenizer->identity()) {
      throw_file(folder, "was trained with tokenizer " + saved.tokenizer + ", this is " + tokenizer->identity(),
                 "use the version of vmoba that wrote it");
    }
    load_checkpoint(folder, saved, parts());
    step = saved.step;
    samples = saved.samples;
    smoothed = saved.smoothed_loss;
    last_checkpoint = folder;
    log("continues " + folder + " after step " + std::to_string(step));
    if (saved.threads != threads) {
      log("the run had " + std::to_string(saved.threads) + " threads, now " + std::to_string(threads) +
          ": it continues up to rounding, not bit for bit");
    }
  }
};

Trainer::Trainer(TrainOptions options, TrainCallbacks callbacks, std::shared_ptr<Group> group)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.options = std::move(options);
  s.callbacks = std::move(callbacks);
  s.group = std::move(group);
  // The model of init counts, not the one asked for.
  if (!s.options.resume && !s.options.init.empty()) {
    s.options.model = read_config(find_checkpoint(s.options.init) + "/config.json");
  }
  check_options(s.options);
  std::string folder;
  CheckpointState saved;
  if (s.options.resume) {
    const std::vector<std::string> all = checkpoints(s.options.out);
    if (all.empty()) {
      throw_file(s.options.out, "holds no checkpoint to continue", "leave --resume out to start the run");
    }
    folder = all.back();
    saved = read_state(folder);
    check_size(saved.options.model, folder, folder + "/state.json");
    check_same_run(saved.options, s.options);
    s.options.plan = saved.options.plan;
    s.options.model = saved.options.model;
  } else {
    if (!checkpoints(s.options.out).empty()) {
      throw_argument("out", s.options.out, "already holds a run",
                     "add --resume to continue it, or name another folder");
    }
  }
  check_options(s.options);
  s.check_division();
  if (s.options.threads > 0) at::set_num_threads(static_cast<int>(s.options.threads));
  s.threads = at::get_num_threads();
  s.flow = {parse_times(s.options.times), s.options.shift};
  io::make_directories(s.options.out);
  s.open_data();
  s.resolve_dense_path();
  s.resolve_min_tokens();
  s.build_model();
  s.model->set_plan(s.options.plan);
  if (s.options.resume) s.continue_from(folder, saved);
}

Trainer::~Trainer() = default;

const TrainOptions& Trainer::options() const { return state_->options; }
WanModel& Trainer::model() { return state_->model; }
std::int64_t Trainer::step() const { return state_->step; }
double Trainer::validation_loss() { return state_->validation_loss(); }

TrainResult Trainer::run() {
  State& s = *state_;
  const TrainOptions& o = s.options;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  TrainResult result;
  result.first_validation = result.last_validation = nan;
  result.tokens = s.sample_tokens();
  for (const auto& [name, weight] : s.weights) result.parameters += weight.numel();

  std::unique_ptr<Metrics> metrics;
  if (s.first_rank()) {
    metrics = std::make_unique<Metrics>(o.out, s.step);
    metrics->write_run(o, result.parameters, result.tokens, s.threads, s.group ? s.group->size() : 1);
  }
  const auto start = Clock::now();
  std::int64_t validated = -1;
  const auto validate = [&] {
    const double loss = s.validation_loss();
    double averaged = nan;
    if (s.averages) {
      s.averages->swap();
      averaged = s.validation_loss();
      s.averages->swap();
    }
    if (std::isnan(result.first_validation)) result.first_validation = loss;
    result.last_validation = loss;
    validated = s.step;
    if (metrics) metrics->validation(s.step, loss, averaged, seconds_since(start));
    if (s.first_rank() && s.callbacks.validation) s.callbacks.validation(s.step, loss, averaged);
  };
  if (s.step == 0 && o.validate_every > 0) validate();

  // Sample n of the run is data(train, n): rank r of R takes n = r, r + R, ..., so that every number of ranks trains on
  // the same samples at the same steps, each with its own noise, time and dropout.
  const std::int64_t ranks = s.data_size(), micro = o.batch / ranks;
  Loader loader(s.dataset, 1, s.samples + s.data_rank(), ranks, std::max<std::int64_t>(4, 2 * micro));
  std::int64_t next_sample = s.samples + s.data_rank();
  std::vector<double> step_seconds;
  double waited = 0;
  auto reported = Clock::now();
  std::int64_t done_here = 0;
  bool saved_here = false, stop = false;
  while (s.step < o.steps && !stop) {
    StepReport report;
    report.steps = o.steps;
    report.lr = learning_rate(o.lr, o.lr_schedule, o.warmup, s.step, o.steps);
    const bool writes_line = (s.step + 1) % o.log_every == 0 || s.step + 1 == o.steps;
    s.model->record_density(writes_line);
    const auto step_start = Clock::now();
    double loss_sum = 0;
    s.optimizer->zero_grad();
    for (std::int64_t pass = 0; pass < o.accumulate; ++pass) {
      auto mark = Clock::now();
      std::vector<Batch> batches;
      std::vector<at::Tensor> noises;
      std::vector<double> times;
      std::vector<bool> dropped;
      for (std::int64_t i = 0; i < micro; ++i, next_sample += ranks) {
        const auto number = static_cast<std::uint64_t>(next_sample);
        batches.push_back(loader.next());
        noises.push_back(
            normal_tensor(batches.back().latents.sizes().slice(1), {o.seed, Purpose::training_noise, number}));
        times.push_back(training_time(s.flow, o.seed, number));
        dropped.push_back(uniform({o.seed, Purpose::caption_dropout, number}) < o.caption_dropout);
      }
      const Samples batch = stack(batches);
      report.data += seconds_since(mark);
      mark = Clock::now();
      const at::Tensor loss = s.loss_of(batch, noises, times, dropped);
      loss_sum += loss.item<double>();
      report.forward += seconds_since(mark);
      mark = Clock::now();
      if (s.reducer && pass + 1 == o.accumulate) s.reducer->begin();
      (loss / static_cast<double>(o.accumulate)).backward();
      report.backward += seconds_since(mark);
    }
    const auto mark = Clock::now();
    if (s.reducer) s.reducer->finish();
    // The loss over all ranks, and whether one of them was asked to stop, in one message.
    ++done_here;
    stop = (s.callbacks.stop && s.callbacks.stop()) || (o.stop_after > 0 && done_here >= o.stop_after);
    report.loss = loss_sum / static_cast<double>(o.accumulate);
    if (s.group) {
      at::Tensor shared = torch::tensor({report.loss, stop ? 1.0 : 0.0}, at::kDouble);
      s.group->all_reduce(shared);
      report.loss = shared[0].item<double>() / static_cast<double>(s.group->size());
      stop = shared[1].item<double>() > 0;
    }
    report.gradient_norm = clip_gradients(s.weights, o.clip);
    if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm)) {
      result.outcome = TrainResult::Outcome::diverged;
      result.step = s.step;
      result.loss = report.loss;
      result.smoothed = s.smoothed;
      result.checkpoint = s.last_checkpoint;
      result.message = "vmoba: the " + std::string(std::isfinite(report.loss) ? "gradient" : "loss") + " of step " +
                       std::to_string(s.step + 1) + " is not finite; " +
                       (s.last_checkpoint.empty() ? std::string("no checkpoint was written yet")
                                                  : "the last good checkpoint is " + s.last_checkpoint) +
                       "; continue with a smaller lr than " + std::to_string(o.lr) + " through --init";
      return result;
    }
    s.optimizer->step(report.lr);
    if (s.averages) s.averages->update(s.step);
    report.optimizer = seconds_since(mark);
    report.seconds = seconds_since(step_start);

    s.smoothed = s.step == 0 ? report.loss : 0.95 * s.smoothed + 0.05 * report.loss;
    ++s.step;
    s.samples += o.batch * o.accumulate;
    step_seconds.push_back(report.seconds);
    report.step = s.step;
    report.smoothed = s.smoothed;
    report.tokens_per_second = static_cast<double>(o.batch * o.accumulate * result.tokens) / report.seconds;
    report.peak_memory = peak_memory();
    if (writes_line) report.density = s.model->last_density();
    const double since = seconds_since(reported);
    report.waiting = since > 0 ? (loader.waited() - waited) / since : 0;
    if (writes_line) {
      if (metrics) metrics->step(report, seconds_since(start));
      waited = loader.waited();
      reported = Clock::now();
    }
    if (s.first_rank() && s.callbacks.step) s.callbacks.step(report);
    result.loss = report.loss;

    if (o.validate_every > 0 && s.step % o.validate_every == 0 && s.step < o.steps) validate();
    saved_here = o.checkpoint_every > 0 && s.step % o.checkpoint_every == 0;
    if (saved_here) s.save();
  }
  if (o.validate_every > 0 && s.step == o.steps && validated != s.step) validate();
  if (!saved_here && done_here > 0) s.save();

  result.outcome = s.step < o.steps ? TrainResult::Outcome::interrupted : TrainResult::Outcome::finished;
  result.step = s.step;
  result.smoothed = s.smoothed;
  result.checkpoint = s.last_checkpoint;
  if (step_seconds.size() > 1) step_seconds.erase(step_seconds.begin());
  if (!step_seconds.empty()) {
    std::nth_element(step_seconds.begin(), step_seconds.begin() + static_cast<std::ptrdiff_t>(step_seconds.size() / 2),
                     step_seconds.end());
    result.median_step_seconds = step_seconds[step_seconds.size() / 2];
    result.tokens_per_second = static_cast<double>(o.batch * o.accumulate * result.tokens) / result.median_step_seconds;
  }
  return result;
}

}  // namespace vmoba::dit
