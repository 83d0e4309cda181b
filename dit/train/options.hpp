// SPDX-License-Identifier: Apache-2.0
// Everything a training run is asked for, in one table of fields: the program's options, the run's record, resume's
// check.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dit/data/dataset.hpp"
#include "dit/model/model.hpp"

namespace vmoba::dit {

struct TrainOptions {
  std::string out;      // folder of the run: run.json, metrics.jsonl, checkpoints/
  std::string init;     // start from the weights of this folder (ours or a plain diffusers one); "" from random weights
  bool resume = false;  // continue the newest checkpoint of out, bit for bit

  // A small model. The text width is that of the byte embedding, learned with the model.
  Config model{.patch_size = {1, 1, 1},
               .num_attention_heads = 4,
               .attention_head_dim = 64,
               .text_dim = 128,
               .ffn_dim = 1024,
               .num_layers = 4};
  // directory, cache, fps, height, width, crop, rendered_clips, held_out, seed, threads, text_length are used; text_dim
  // and log are the trainer's.
  DataOptions data{};
  AttentionPlan plan{};  // dense unless set

  std::int64_t steps = 200;
  std::int64_t batch = 1;       // samples a step before accumulation, over all ranks
  std::int64_t accumulate = 1;  // backward passes a step
  double lr = 1e-3;
  std::string lr_schedule = "cosine";  // to lr / 10 at the last step; or "constant"
  std::int64_t warmup = 10;            // steps
  double weight_decay = 0.01;          // of matrices; not of norms, biases, tables and embeddings
  double beta1 = 0.9, beta2 = 0.95;
  double clip = 1;                     // of the gradient's norm; 0: none
  double caption_dropout = 0.1;        // share of samples trained without their caption, for guidance
  std::string times = "logit-normal";  // or "uniform"
  double shift = 1;                    // of training times
  std::uint64_t seed = 0;              // of weights, noise, times, dropout
  bool bf16 = false;                   // autocast to bfloat16, master weights fp32
  bool activation_checkpointing = false;
  double ema = 0;  // decay of the averaged weights; 0: none

  std::int64_t validation_samples = 8;  // fixed clips, noise and times
  std::int64_t validate_every = 50;     // steps; 0: never
  std::int64_t checkpoint_every = 100;  // steps; 0: only at the end
  std::int64_t keep = 2;                // newest checkpoints kept
  std::int64_t log_every = 10;          // steps between lines of metrics
  std::int64_t stop_after = 0;          // save and stop after so many steps of this call; 0: run to the end
  std::int64_t threads = 0;             // of torch; 0: as they are
  std::int64_t sequence_parallel = 1;   // ranks that share one sample (Ulysses)
};

// What a field means to a run that continues.
enum class Role : std::uint8_t {
  fixed,  // another value would not be the same run: resume refuses it
  free,   // may change
};

// Calls f(name, field, help, role) for every plain field; names are those of the program's options and of run.json.
template <class Options, class F>
void visit_fields(Options& o, F&& f) {
  f("init", o.init,
    "start from the weights of this folder: a run, one checkpoint, or a plain diffusers folder; left out: random "
    "weights",
    Role::fixed);
  f("layers", o.model.num_layers, "transformer layers", Role::fixed);
  f("heads", o.model.num_attention_heads, "attention heads H", Role::fixed);
  f("head-dim", o.model.attention_head_dim, "head dim D, a multiple of 8", Role::fixed);
  f("ffn", o.model.ffn_dim, "width of the feed-forward layers", Role::fixed);
  f("patch", o.model.patch_size, "latents that make one token, T,Y,X", Role::fixed);
  f("text-dim", o.model.text_dim, "width of the text embedding", Role::fixed);

  f("data", o.data.directory, "folder of videos; left out: clips rendered by the program", Role::free);
  f("cache", o.data.cache,
    "folder for latents that runs share; left out: OUT/latents, or memory where clips are rendered", Role::free);
  f("fps", o.data.fps, "frames a second that videos are read at", Role::fixed);
  f("height", o.data.height, "pixels that videos are resized to", Role::fixed);
  f("width", o.data.width, "pixels that videos are resized to", Role::fixed);
  f("crop", o.data.crop, "latents of one sample, T,Y,X", Role::fixed);
  f("rendered-clips", o.data.rendered_clips, "number of clips where they are rendered", Role::fixed);
  f("held-out", o.data.held_out, "share of the data kept for validation", Role::fixed);
  f("data-seed", o.data.seed, "seed of rendered clips and crops; the same for runs that are compared", Role::fixed);
  f("text-length", o.data.text_length, "bytes of a caption, L", Role::fixed);
  f("loader-threads", o.data.threads, "threads that prepare data", Role::free);

  f("steps", o.steps, "optimizer steps of the run", Role::free);
  f("batch", o.batch, "samples a step before accumulation, over all ranks", Role::fixed);
  f("accumulate", o.accumulate, "backward passes a step", Role::fixed);
  f("lr", o.lr, "peak learning rate", Role::fixed);
  f("lr-schedule", o.lr_schedule, "cosine (to a tenth) or constant", Role::fixed);
  f("warmup", o.warmup, "steps until the peak learning rate", Role::fixed);
  f("weight-decay", o.weight_decay, "weight decay of matrices", Role::fixed);
  f("beta1", o.beta1, "AdamW: decay of the mean of gradients", Role::fixed);
  f("beta2", o.beta2, "AdamW: decay of the mean of their squares", Role::fixed);
  f("clip", o.clip, "largest gradient norm; 0: no clipping", Role::fixed);
  f("caption-dropout", o.caption_dropout, "share of samples without caption, for guidance", Role::fixed);
  f("times", o.times, "distribution of training times: logit-normal or uniform", Role::fixed);
  f("shift", o.shift, "shift of training times towards noise; 1: none", Role::fixed);
  f("seed", o.seed, "seed of weights, noise, times and dropout", Role::fixed);
  f("bf16", o.bf16, "autocast to bfloat16; weights stay float32", Role::fixed);
  f("activation-checkpointing", o.activation_checkpointing, "recompute each block in backward: less memory",
    Role::free);
  f("ema", o.ema, "decay of averaged weights, for example 0.999; 0: none", Role::fixed);

  f("validation-samples", o.validation_samples, "fixed clips, noise and times of the validation loss", Role::fixed);
  f("validate-every", o.validate_every, "steps between validations; 0: never", Role::free);
  f("checkpoint-every", o.checkpoint_every, "steps between checkpoints; 0: only at the end", Role::free);
  f("keep", o.keep, "newest checkpoints kept", Role::free);
  f("log-every", o.log_every, "steps between lines of metrics", Role::free);
  f("stop-after", o.stop_after, "save and stop after so many steps of this call; 0: run to the end", Role::free);
  f("threads", o.threads, "threads; 0: one a core, under torchrun this process's share of the cores", Role::free);
  f("sequence-parallel", o.sequence_parallel, "ranks that share one sample (Ulysses)", Role::free);
}

// Throws Error (kind argument) naming the field, its value, the rule and the way out.
void check_options(const TrainOptions& options);

// run.json's "options" object and back; unknown names are refused, missing ones keep their defaults.
std::string options_json(const TrainOptions& options);
TrainOptions parse_options(const std::string& json,
                           const std::string& name);  // Error (kind file) naming `name` and the field
// Throws Error (kind argument) naming the first fixed field in which a continued run differs, with both values.
void check_same_run(const TrainOptions& saved, TrainOptions asked);

}  // namespace vmoba::dit
