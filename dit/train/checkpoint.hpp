// SPDX-License-Identifier: Apache-2.0
// Checkpoints of training: folders that are there whole or not at all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dit/model/model.hpp"
#include "dit/train/optimizer.hpp"
#include "dit/train/options.hpp"
#include "dit/train/text.hpp"

namespace vmoba::dit {

// OUT/checkpoints/step-00000100/
//   config.json, diffusion_pytorch_model.safetensors   the weights, as diffusers lays them out
//   text_embedding.safetensors                         the captions' part of the model
//   ema/ (the same three files)                        averaged weights, when asked for
//   optimizer.safetensors                              NAME.exp_avg, NAME.exp_avg_sq
//   state.json                                         the rest; written last: a folder without it is no checkpoint
// Random numbers have no state of their own: seed, step and the number of samples seen are all there is (noise.hpp).
struct CheckpointState {
  std::int64_t step = 0;     // optimizer steps done
  std::int64_t samples = 0;  // position in the data, over all ranks
  double smoothed_loss = 0;
  std::int64_t threads = 0;        // torch's at the time: another number may round differently
  std::string dataset, tokenizer;  // identities
  std::string vmoba;               // version that wrote it
  TrainOptions options;
};

// What of a run a checkpoint holds. averages may be null.
struct CheckpointParts {
  WanModel* model = nullptr;
  TextEmbedding* text = nullptr;
  AdamW* optimizer = nullptr;
  AveragedWeights* averages = nullptr;
};

// Writes into a temporary folder beside the others, fsyncs, renames it to step-NNNNNNNN, then removes all but the
// newest `keep`. Throws Error(kind file); earlier checkpoints are untouched then. Returns the folder's path.
std::string save_checkpoint(const std::string& out, const CheckpointState& state, const CheckpointParts& parts,
                            std::int64_t keep);

// Folders of complete checkpoints of a run, oldest first.
std::vector<std::string> checkpoints(const std::string& out);
// The newest checkpoint of a run folder, or directory itself when it is a checkpoint or a plain diffusers folder.
// Throws Error(kind file) when there is none.
std::string find_checkpoint(const std::string& directory);

// Weights to train or sample with: load_model and load_weights, and an Error(kind file) naming the folder and a tensor
// when any holds NaN or infinity.
WanModel load_finite_model(const std::string& directory);
void load_finite_weights(WanModel& model, const std::string& directory);

bool has_state(const std::string& directory);
CheckpointState read_state(const std::string& directory);
// Loads every tensor of parts. Throws Error(kind file) naming the tensor and both shapes; nothing is changed by a file
// that does not fit.
void load_checkpoint(const std::string& directory, const CheckpointState& state, const CheckpointParts& parts);

// All weights that train together: the model's under their own names, the text embedding's under "text_embedding.".
NamedTensors trained_weights(WanModel& model, TextEmbedding* text);

}  // namespace vmoba::dit
