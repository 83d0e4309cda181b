// SPDX-License-Identifier: Apache-2.0
// Rendered clips: textured shapes that move, spin, bounce and occlude each other under a moving camera, described in
// words.
//
// Screen units: y is -1..1 from top to bottom, x is -a..a with a = width / height; the camera maps screen to world by
// world = centre + screen / zoom. The background is a tile of the world, drawn once and repeated.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "dit/data/dataset.hpp"
#include "dit/data/random.hpp"
#include "dit/data/texture.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

struct Named {
  const char* name;
  Colour colour;
};
constexpr Named paints[] = {{"red", {0.86, 0.16, 0.16}},    {"orange", {0.96, 0.55, 0.10}},
                            {"yellow", {0.97, 0.84, 0.20}}, {"green", {0.20, 0.65, 0.28}},
                            {"teal", {0.10, 0.62, 0.64}},   {"blue", {0.17, 0.36, 0.85}},
                            {"purple", {0.52, 0.25, 0.75}}, {"pink", {0.95, 0.50, 0.70}},
                            {"white", {0.94, 0.94, 0.92}},  {"brown", {0.50, 0.33, 0.20}}};
constexpr const char* outline_names[] = {"circle", "square", "triangle", "star", "ring", "hexagon", "cross"};
constexpr const char* surface_names[] = {"", "striped ", "checkered ", "spotted ", "marbled "};
enum class Motion { left, right, up, down, bounce, orbit, swing, spin, pulse };
constexpr const char* motion_names[] = {"moves left", "moves right", "rises", "falls", "bounces",
                                        "circles",    "swings",      "spins", "pulses"};
enum class Camera { still, left, right, up, down, in, out };
constexpr const char* camera_names[] = {
    "",          ", camera pans left", ", camera pans right", ", camera pans up", ", camera pans down",
    ", zoom in", ", zoom out"};
enum class Ground { clouds, checks, stripes, dots };
constexpr const char* ground_names[] = {"clouds", "checks", "stripes", "dots"};

constexpr double tau = 6.283185307179586;

struct Shape {
  Outline outline = Outline::circle;
  Surface surface = Surface::plain;
  Motion motion = Motion::bounce;
  Colour first, second;
  std::uint64_t seed = 0;
  double radius = 0.3, x = 0, y = 0, vx = 0, vy = 0, angle = 0, turn = 0, phase = 0, rate = 0;
};
struct Pose {
  double x = 0, y = 0, radius = 0, cos = 1, sin = 0;
};

// x moving at constant speed between two walls.
double reflect(double x, double low, double high) {
  if (high <= low) return 0.5 * (low + high);
  const double span = high - low;
  double u = std::fmod(x - low, 2 * span);
  if (u < 0) u += 2 * span;
  return low + (u < span ? u : 2 * span - u);
}

Pose pose_of(const Shape& s, double time, double aspect) {
  Pose pose{s.x + s.vx * time, s.y + s.vy * time, s.radius};
  const double wave = std::sin(tau * (s.rate * time + s.phase));
  switch (s.motion) {
    case Motion::bounce:
      pose.x = reflect(pose.x, -aspect + s.radius, aspect - s.radius);
      pose.y = reflect(pose.y, -1 + s.radius, 1 - s.radius);
      break;
    case Motion::orbit:
      pose.x += 0.5 * std::cos(tau * (s.rate * time + s.phase));
      pose.y += 0.5 * wave;
      break;
    case Motion::swing:
      pose.x += 0.7 * wave;
      break;
    case Motion::pulse:
      pose.radius *= 1 + 0.4 * wave;
      break;
    case Motion::left:
    case Motion::right: {  // comes back on the other side
      const double edge = aspect + 1.2 * s.radius;
      pose.x = std::fmod(std::fmod(pose.x + edge, 2 * edge) + 2 * edge, 2 * edge) - edge;
      break;
    }
    case Motion::up:
    case Motion::down: {
      const double edge = 1 + 1.2 * s.radius;
      pose.y = std::fmod(std::fmod(pose.y + edge, 2 * edge) + 2 * edge, 2 * edge) - edge;
      break;
    }
    case Motion::spin:
      break;
  }
  const double angle = s.angle + s.turn * time;
  pose.cos = std::cos(angle);
  pose.sin = std::sin(angle);
  return pose;
}

class Scene {
 public:
  Scene(std::uint64_t seed, std::int64_t height, std::int64_t width)
      : height_(height),
        width_(width),
        aspect_(static_cast<double>(width) / static_cast<double>(height)),
        tile_pixels_(static_cast<std::int64_t>(
            std::bit_ceil(static_cast<std::uint64_t>(std::clamp<std::int64_t>(2 * height, 64, 1024))))) {
    Random random{seed, 0x5CE4E};
    const int ground_paint = static_cast<int>(random.below(std::size(paints)));
    const auto ground = static_cast<Ground>(random.below(std::size(ground_names)));
    // Grounds are muted: shapes stand out, and the colours of a frame spread like those of filmed ones.
    draw_ground(ground, dit::mix(paints[ground_paint].colour, Colour{0.45, 0.43, 0.40}, 0.5), random);

    const std::int64_t count = 1 + random.below(3);
    int last_paint = ground_paint;
    for (std::int64_t i = 0; i < count; ++i) {
      int paint = static_cast<int>(random.below(std::size(paints)));
      while (paint == last_paint || paint == ground_paint) paint = static_cast<int>(random.below(std::size(paints)));
      last_paint = paint;
      shapes_.push_back(make_shape(random, paints[paint].colour));
      const Shape& s = shapes_.back();
      caption_ += (i == 0           ? ""
                   : i + 1 == count ? " and "
                                    : ", ") +
                  std::string(s.radius > 0.42   ? "big "
                              : s.radius < 0.28 ? "small "
                                                : "") +
                  paints[paint].name + " " + surface_names[static_cast<int>(s.surface)] +
                  outline_names[static_cast<int>(s.outline)] + " " + motion_names[static_cast<int>(s.motion)];
    }
    camera_ = static_cast<Camera>(random.below(std::size(camera_names)));
    camera_speed_ = random.uniform(0.15, 0.45);
    caption_ += camera_names[static_cast<int>(camera_)];
    caption_ += std::string(", ") + paints[ground_paint].name + " " + ground_names[static_cast<int>(ground)];
  }

  const std::string& caption() const { return caption_; }

  void draw(double time, std::uint8_t* rgb) {
    double cx = 0, cy = 0, zoom = 1;
    const double path = camera_speed_ * time;
    switch (camera_) {
      case Camera::still:
        break;
      case Camera::left:
        cx = -path;
        break;
      case Camera::right:
        cx = path;
        break;
      case Camera::up:
        cy = -path;
        break;
      case Camera::down:
        cy = path;
        break;
      // Rational in time: smooth, and never beyond 1.9 or below 0.55 however long the clip.
      case Camera::in:
        zoom = 1 + 0.9 * path / (1 + path);
        break;
      case Camera::out:
        zoom = 1 - 0.45 * path / (1 + path);
        break;
    }
    const double pixel = 2.0 / static_cast<double>(height_) / zoom;  // world units
    canvas_.resize(static_cast<std::size_t>(height_ * width_));
    for (std::int64_t y = 0; y < height_; ++y) {
      const double wy = cy + (static_cast<double>(y) + 0.5) * pixel - 1 / zoom;
      for (std::int64_t x = 0; x < width_; ++x) {
        canvas_[static_cast<std::size_t>(y * width_ + x)] =
            ground_at(cx + (static_cast<double>(x) + 0.5) * pixel - aspect_ / zoom, wy);
      }
    }
    // Shapes live on the screen's scale but are fixed to the world, so a panning camera leaves them behind slowly.
    for (const Shape& shape : shapes_) {
      Pose pose = pose_of(shape, time, aspect_);
      pose.x = (pose.x - 0.6 * cx) * zoom;
      pose.y = (pose.y - 0.6 * cy) * zoom;
      pose.radius *= zoom;
      draw_shape(shape, pose);
    }
    for (std::size_t i = 0; i < canvas_.size(); ++i) {
      const auto byte = [](double v) { return static_cast<std::uint8_t>(std::clamp(v, 0.0, 1.0) * 255 + 0.5); };
      rgb[3 * i] = byte(canvas_[i].r), rgb[3 * i + 1] = byte(canvas_[i].g), rgb[3 * i + 2] = byte(canvas_[i].b);
    }
  }

 private:
  static constexpr double tile_size = 4;  // world units after which the background repeats

  Shape make_shape(Random& random, const Colour& colour) const {
    Shape s;
    s.outline = static_cast<Outline>(random.below(std::size(outline_names)));
    s.surface = static_cast<Surface>(random.below(std::size(surface_names)));
    s.motion = static_cast<Motion>(random.below(std::size(motion_names)));
    s.first = colour;
    // Dark colours get light patterns and the reverse.
    const bool light = 0.3 * colour.r + 0.6 * colour.g + 0.1 * colour.b > 0.55;
    s.second = light ? dit::mix(colour, Colour{0.1, 0.1, 0.2}, 0.65) : dit::mix(colour, Colour{1, 1, 0.95}, 0.7);
    s.seed = random.bits();
    s.radius = random.uniform(0.2, 0.55);
    s.x = random.uniform(-0.7, 0.7) * aspect_;
    s.y = random.uniform(-0.6, 0.6);
    const double speed = random.uniform(0.45, 1.1);
    const double sign = random.below(2) == 0 ? -1 : 1;
    s.phase = random.uniform();
    s.rate = random.uniform(0.25, 0.55) * sign;
    s.angle = random.uniform(0, tau);
    s.turn = random.uniform(0.3, 1.2) * (random.below(2) == 0 ? -1 : 1);
    switch (s.motion) {
      case Motion::left:
        s.vx = -speed;
        break;
      case Motion::right:
        s.vx = speed;
        break;
      case Motion::up:
        s.vy = -speed;
        break;
      case Motion::down:
        s.vy = speed;
        break;
      case Motion::bounce: {
        const double angle = random.uniform(0.3, 1.2);
        s.vx = speed * std::cos(angle) * sign;
        s.vy = speed * std::sin(angle);
        break;
      }
      case Motion::spin:
        s.turn = random.uniform(1.8, 3.5) * sign;
        break;
      case Motion::orbit:
      case Motion::swing:
      case Motion::pulse:
        s.x *= 0.6, s.y *= 0.6;
        break;
    }
    return s;
  }

  void draw_ground(Ground ground, const Colour& colour, Random& random) {
    const std::uint64_t seed = random.bits();
    const Colour dark = dit::mix(colour, Colour{0.08, 0.10, 0.16}, 0.6),
                 light = dit::mix(colour, Colour{0.95, 0.95, 0.92}, 0.45);
    const auto side = static_cast<double>(tile_pixels_);
    const double soft = 2 / side;  // a softened edge covers two pixels of the tile
    tile_.resize(static_cast<std::size_t>(tile_pixels_ * tile_pixels_));
    for (std::int64_t y = 0; y < tile_pixels_; ++y) {
      for (std::int64_t x = 0; x < tile_pixels_; ++x) {
        const double u = static_cast<double>(x) / side, v = static_cast<double>(y) / side;  // 0..1
        double w = 0;
        switch (ground) {
          case Ground::clouds:
            w = std::clamp((noise(u * 6, v * 6, 6, seed) - 0.25) * 2, 0.0, 1.0);
            break;
          case Ground::checks:
            w = second_colour(Surface::checkered, u * 4.8, v * 4.8, soft * 4.8, seed);
            break;
          case Ground::stripes:
            w = second_colour(Surface::striped, u * 4 + v * 4, 0, soft * 4, seed);
            break;
          case Ground::dots:
            w = second_colour(Surface::spotted, u * 10 / 2.2, v * 10 / 2.2, soft * 4, seed);
            break;
        }
        const double grain = noise(u * 24, v * 24, 24, seed + 7) - 0.5;
        Colour c = dit::mix(dark, light, ground == Ground::clouds ? w : 0.25 + 0.5 * w);
        tile_[static_cast<std::size_t>(y * tile_pixels_ + x)] = {c.r + 0.12 * grain, c.g + 0.12 * grain,
                                                                 c.b + 0.12 * grain};
      }
    }
  }

  Colour ground_at(double x, double y) const {
    const double u = x * (static_cast<double>(tile_pixels_) / tile_size),
                 v = y * (static_cast<double>(tile_pixels_) / tile_size);
    const double fu = std::floor(u), fv = std::floor(v);
    const std::int64_t mask = tile_pixels_ - 1;
    const std::int64_t x0 = static_cast<std::int64_t>(fu) & mask, y0 = static_cast<std::int64_t>(fv) & mask;
    const std::int64_t x1 = (x0 + 1) & mask, y1 = (y0 + 1) & mask;
    const auto at = [&](std::int64_t yy, std::int64_t xx) {
      return tile_[static_cast<std::size_t>(yy * tile_pixels_ + xx)];
    };
    return dit::mix(dit::mix(at(y0, x0), at(y0, x1), u - fu), dit::mix(at(y1, x0), at(y1, x1), u - fu), v - fv);
  }

  void draw_shape(const Shape& shape, const Pose& pose) {
    const double scale = static_cast<double>(height_) / 2;  // pixels a screen unit
    const double px = (pose.x + aspect_) * scale, py = (pose.y + 1) * scale, radius = pose.radius * scale;
    if (radius < 0.5) return;
    const double soft = 0.35 * radius, reach = radius * 1.2 + soft + 2;
    const double shadow_x = 0.14 * radius, shadow_y = 0.2 * radius;
    const auto low = [](double v) { return std::max<std::int64_t>(0, static_cast<std::int64_t>(std::floor(v))); };
    const std::int64_t x0 = low(px - reach), y0 = low(py - reach);
    const std::int64_t x1 = std::min(width_, static_cast<std::int64_t>(std::ceil(px + reach)) + 1);
    const std::int64_t y1 = std::min(height_, static_cast<std::int64_t>(std::ceil(py + reach)) + 1);
    for (std::int64_t y = y0; y < y1; ++y) {
      for (std::int64_t x = x0; x < x1; ++x) {
        Colour& to = canvas_[static_cast<std::size_t>(y * width_ + x)];
        const double dx = static_cast<double>(x) + 0.5 - px, dy = static_cast<double>(y) + 0.5 - py;
        const auto local = [&](double ax, double ay) {
          return std::array{(ax * pose.cos + ay * pose.sin) / radius, (ay * pose.cos - ax * pose.sin) / radius};
        };
        const auto [u, v] = local(dx, dy);
        const double edge = distance(shape.outline, u, v) * radius;  // pixels
        const double cover = std::clamp(0.5 - edge, 0.0, 1.0);
        if (cover < 1) {
          const auto [su, sv] = local(dx - shadow_x, dy - shadow_y);
          const double shade = std::clamp(0.5 - distance(shape.outline, su, sv) * radius / soft, 0.0, 1.0);
          to = dit::mix(to, Colour{0.02, 0.02, 0.05}, 0.45 * shade * (1 - cover));
        }
        if (cover <= 0) continue;
        Colour paint = dit::mix(shape.first, shape.second, second_colour(shape.surface, u, v, 1 / radius, shape.seed));
        // Light from the upper left, and a darker rim of a tenth of the radius.
        const double light = 1 + 0.22 * std::clamp((-dx - 1.3 * dy) / (1.6 * radius), -1.0, 1.0);
        const double rim = 0.72 + 0.28 * std::clamp(-edge / (0.1 * radius + 1), 0.0, 1.0);
        paint = {paint.r * light * rim, paint.g * light * rim, paint.b * light * rim};
        to = dit::mix(to, paint, cover);
      }
    }
  }

  std::int64_t height_, width_;
  double aspect_;
  std::int64_t tile_pixels_;  // a side of the tile: a power of two, about a screen pixel each
  std::vector<Shape> shapes_;
  std::vector<Colour> tile_, canvas_;
  Camera camera_ = Camera::still;
  double camera_speed_ = 0;
  std::string caption_;
};

}  // namespace

RenderedClip render_clip(std::uint64_t seed, std::int64_t frames, std::int64_t height, std::int64_t width, double fps) {
  const auto side = [](const char* name, std::int64_t n, std::int64_t most) {
    if (n < 1 || n > most) throw_argument(name, std::to_string(n), "is out of range", "use 1.." + std::to_string(most));
  };
  side("frames", frames, 1 << 20);
  side("height", height, 16384);
  side("width", width, 16384);
  if (!(fps > 0 && fps <= 1000))
    throw_argument("fps", std::to_string(fps), "is not a frame rate", "use more than 0 and at most 1000");
  Scene scene(seed, height, width);
  RenderedClip clip;
  clip.caption = scene.caption();
  clip.rgb = at::empty({frames, height, width, 3}, at::kByte);
  std::uint8_t* const rgb = clip.rgb.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t f = 0; f < frames; ++f) scene.draw(static_cast<double>(f) / fps, rgb + f * height * width * 3);
  return clip;
}

}  // namespace vmoba::dit
