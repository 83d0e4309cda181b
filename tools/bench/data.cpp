// SPDX-License-Identifier: Apache-2.0
// Inputs for measurements.
#include "tools/bench/data.hpp"

#include <torch/torch.h>

#include "dit/data/dataset.hpp"
#include "dit/data/tokenizer.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

constexpr std::int64_t channels = 16;

// [16, T, Y, X]: noise drawn on grids three and six times coarser and interpolated, plus a little that is not smooth.
at::Tensor smooth_field(const Grid& grid, torch::Generator& random) {
  at::Tensor field = 0.2 * torch::randn({1, channels, grid.t, grid.y, grid.x}, random);
  for (const std::int64_t coarse : {3, 6}) {
    const auto axis = [&](std::int64_t extent) { return std::max<std::int64_t>(1, extent / coarse); };
    const at::Tensor noise = torch::randn({1, channels, axis(grid.t), axis(grid.y), axis(grid.x)}, random);
    field += at::upsample_trilinear3d(noise, {grid.t, grid.y, grid.x}, false);
  }
  return field[0];
}

at::Tensor latents_of(const at::Tensor& rgb, const Grid& grid) {
  const at::Tensor latents = dit::make_dct_tokenizer()->encode(rgb);
  return latents.slice(1, 0, grid.t).slice(2, 0, grid.y).slice(3, 0, grid.x).to(torch::kFloat);
}

at::Tensor clip_field(const std::string& path, const Grid& grid) {
  const std::int64_t frames = 4 * (grid.t - 1) + 1;
  const io::Frames clip = io::read_video(path, {.height = 8 * grid.y, .width = 8 * grid.x, .max_frames = frames});
  at::Tensor rgb = torch::from_blob(const_cast<std::uint8_t*>(clip.rgb.data()),
                                    {clip.frames, clip.height, clip.width, 3}, torch::kUInt8)
                       .clone();
  if (clip.frames < frames) {  // a short clip is played to and fro
    const at::Tensor bounced = torch::cat({rgb, rgb.flip(0)});
    rgb = bounced.repeat({(frames + bounced.size(0) - 1) / bounced.size(0), 1, 1, 1}).slice(0, 0, frames).contiguous();
  }
  return latents_of(rgb, grid);
}

}  // namespace

void check_kind_of_data(const std::string& kind) {
  if (kind == "random" || kind == "smooth" || kind == "rendered" || (kind.starts_with("clip:") && kind.size() > 5))
    return;
  throw_argument("--data", kind, "is no kind of data known here", "use random, smooth, rendered or clip:FILE");
}

Inputs make_inputs(const std::string& kind, const Grid& grid, std::int64_t heads, std::int64_t dim,
                   std::uint64_t seed) {
  check_kind_of_data(kind);
  torch::Generator random = at::detail::createCPUGenerator(seed);
  const std::int64_t tokens = grid.tokens(), width = heads * dim;
  const auto normal = [&] { return torch::randn({1, tokens, heads, dim}, random); };
  if (kind == "random") return {normal(), normal(), normal(), normal()};
  at::Tensor field;
  if (kind == "smooth") {
    field = smooth_field(grid, random);
  } else if (kind == "rendered") {
    field = latents_of(dit::render_clip(seed, 4 * (grid.t - 1) + 1, 8 * grid.y, 8 * grid.x).rgb, grid);
  } else {
    field = clip_field(kind.substr(5), grid);
  }
  field = field.reshape({channels, tokens}).t();                      // [S, 16]
  field = field / field.pow(2).mean(0, true).sqrt().clamp_min(1e-3);  // every channel counts the same
  const auto project = [&] {
    const at::Tensor out = field.matmul(torch::randn({channels, width}, random)) / 4;
    return out + 0.3 * torch::randn({tokens, width}, random);
  };
  const auto normed = [&](const at::Tensor& x) {
    return (x / x.pow(2).mean(1, true).add(1e-6).sqrt()).reshape({1, tokens, heads, dim}).contiguous();
  };
  Inputs out;
  out.q = normed(project());
  out.k = normed(project());
  out.v = project().reshape({1, tokens, heads, dim}).contiguous();
  out.dout = normal();
  return out;
}

}  // namespace vmoba::tools
