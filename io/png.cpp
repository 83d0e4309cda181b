// SPDX-License-Identifier: Apache-2.0
// PNG images through libpng's simplified interface, which needs no longjmp of ours.
#include <png.h>

#include <cstring>

#include "io/file.hpp"
#include "io/video.hpp"
#include "vmoba/error.hpp"

namespace vmoba::io {

void write_png(const std::string& path, std::int64_t width, std::int64_t height, const std::uint8_t* rgb) {
  if (width < 1 || height < 1 || width > 16384 || height > 16384) {
    throw_argument("width x height", std::to_string(width) + " x " + std::to_string(height), "is not an image size",
                   "use 1..16384");
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  image.flags = PNG_IMAGE_FLAG_FAST;  // a third of the time for a tenth more bytes
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, rgb, 0, nullptr) == 0) {
    throw_file(path, std::string("cannot be coded as PNG (") + image.message + ")", "use a smaller image");
  }
  write_file(path, std::string_view(bytes).substr(0, size));
}

Frames read_png(const std::string& path) {
  const std::string bytes = read_file(path, 1ull << 30);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const auto fail = [&] {
    const std::string words = image.message;
    png_image_free(&image);
    throw_file(path, "is not a readable PNG image (" + words + ")", "use an intact PNG file");
  };
  if (png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) == 0) fail();
  if (image.width > 16384 || image.height > 16384) {
    png_image_free(&image);
    throw_file(path,
               "is an image of " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                   " pixels, more than 16384 a side",
               "use a smaller image");
  }
  image.format = PNG_FORMAT_RGB;
  Frames frames;
  frames.frames = 1;
  frames.width = image.width;
  frames.height = image.height;
  frames.rgb.resize(PNG_IMAGE_SIZE(image));
  const png_color black{};  // what transparent pixels are laid on
  if (png_image_finish_read(&image, &black, frames.rgb.data(), 0, nullptr) == 0) fail();
  png_image_free(&image);
  return frames;
}

}  // namespace vmoba::io
