// SPDX-License-Identifier: Apache-2.0
// Video files: round trips through every container, sampling in time and space, damaged and hostile files.
#include "io/video.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "clips.hpp"
#include "full_disk.hpp"
#include "io/file.hpp"
#include "temporary.hpp"

namespace vmoba::io {
namespace {

using namespace test;

const std::vector<std::string> containers{"mp4", "webm", "mkv", "gif"};

TEST(Video, round_trip_in_every_container) {
  const TemporaryFolder folder;
  const Frames clip = moving_clip(13, 48, 80, 12);
  for (const auto& container : containers) {
    const std::string path = folder / ("clip." + container);
    write_video(path, clip, 0.9);
    const Frames back = read_video(path, {}, true);
    EXPECT_EQ(back.frames, clip.frames) << container;
    EXPECT_EQ(back.height, clip.height);
    EXPECT_EQ(back.width, clip.width);
    EXPECT_NEAR(back.fps, 12, container == "gif" ? 0.3 : 0.01) << container;  // GIF counts hundredths of a second
    ASSERT_EQ(back.rgb.size(), clip.rgb.size()) << container;
    const double quality = psnr(back.rgb, clip.rgb);
    RecordProperty("psnr_" + container, std::to_string(quality));
    EXPECT_GT(quality, container == "gif" ? 30 : 34) << container;
    const VideoInfo info = probe_video(path);
    EXPECT_EQ(info.width, 80);
    EXPECT_EQ(info.height, 48);
    EXPECT_NEAR(info.seconds, 13 / 12.0, 0.1) << container;
    EXPECT_EQ(info.codec, container == "webm" ? "vp8" : container == "gif" ? "gif" : "h264");
    if (container == "webm" || container == "gif") {  // x264 lets uninitialised memory decide between equal choices
      const std::string bytes = read_file(path);
      write_video(path, clip, 0.9);
      EXPECT_TRUE(read_file(path) == bytes) << container << ": the same frames give another file";
    }
  }
  EXPECT_EQ(folder.entries(), containers.size()) << "temporary files stay behind";
}

TEST(Video, png_folder) {
  const TemporaryFolder folder;
  write_video(folder / "frames/", moving_clip(4, 20, 30, 12));
  const Frames clip = moving_clip(3, 21, 31, 12);
  write_video(folder / "frames", clip);
  std::vector<std::uint8_t> all;
  for (const char* name : {"frames/frame_00000.png", "frames/frame_00001.png", "frames/frame_00002.png"}) {
    const Frames image = read_png(folder / name);
    EXPECT_EQ(image.height, 21);
    EXPECT_EQ(image.width, 31);
    all.insert(all.end(), image.rgb.begin(), image.rgb.end());
  }
  EXPECT_EQ(all, clip.rgb);
  EXPECT_FALSE(std::filesystem::exists(folder / "frames/frame_00003.png")) << "a frame of the older, longer clip";
}

// Wrong colour matrices or ranges shift saturated colours by 10 to 40 levels.
TEST(Video, colours_survive) {
  const TemporaryFolder folder;
  for (const auto& [height, width] : {std::pair{64, 64}, std::pair{720, 1280}}) {
    for (const auto& container : containers) {
      for (const auto& [r, g, b] : {std::array{200, 40, 40}, std::array{40, 190, 60}, std::array{30, 60, 210},
                                    std::array{255, 255, 255}, std::array{0, 0, 0}}) {
        if (height > 64 && (r != 40 || container == "gif")) continue;
        const std::string path = folder / ("solid." + container);
        write_video(path, solid_clip(2, height, width, 10, r, g, b), 0.95);
        const Frames back = read_video(path);
        EXPECT_NEAR(back.rgb[0], r, 4) << container << " " << height;
        EXPECT_NEAR(back.rgb[1], g, 4) << container << " " << height;
        EXPECT_NEAR(back.rgb[2], b, 4) << container << " " << height;
      }
    }
  }
}

TEST(Video, odd_sizes_are_padded_by_their_edge) {
  const TemporaryFolder folder;
  for (const char* container : {"mp4", "webm"}) {
    const std::string path = folder / (std::string("odd.") + container);
    write_video(path, moving_clip(3, 33, 47, 12), 1);
    const Frames back = read_video(path);
    EXPECT_EQ(back.height, 34);
    EXPECT_EQ(back.width, 48);
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(back.rgb[47 * 3 + c], back.rgb[46 * 3 + c], 30);
  }
  write_video(folder / "odd.gif", moving_clip(3, 33, 47, 12));
  EXPECT_EQ(read_video(folder / "odd.gif").width, 47);
}

TEST(Video, samples_in_time) {
  const TemporaryFolder folder;
  const std::string path = folder / "count.mp4";
  write_video(path, counting_clip(24, 8, 24), 1);
  EXPECT_EQ(counted(read_video(path, {.fps = 12}), 8), (std::vector{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22}));
  EXPECT_EQ(counted(read_video(path, {.fps = 8, .max_frames = 3}), 8), (std::vector{0, 3, 6}));
  EXPECT_EQ(counted(read_video(path, {.fps = 12, .max_frames = 2, .start = 0.5}), 8), (std::vector{12, 14}));
  EXPECT_EQ(counted(read_video(path, {.max_frames = 3, .start = 0.75}), 8), (std::vector{18, 19, 20}));
  EXPECT_EQ(counted(read_video(path, {.fps = 48, .max_frames = 5}), 8).size(), 5u);
  EXPECT_EQ(read_video(path, {.fps = 48}).frames, 48);
  // Nearest in time: 24 frames a second at 10 a second are 0, 2.4, 4.8, 7.2, 9.6, ...
  EXPECT_EQ(counted(read_video(path, {.fps = 10, .max_frames = 5}), 8), (std::vector{0, 2, 5, 7, 10}));
  message_of(Error::Kind::file, [&] { read_video(path, {.fps = 12, .start = 5}); });
  message_of(Error::Kind::file, [&] { read_video(path, {.start = 500}); });
}

TEST(Video, covers_and_crops_the_centre) {
  const TemporaryFolder folder;
  Frames bands{1, 40, 120, 5, {}};
  for (int i = 0; i < 40 * 120; ++i) {
    const int band = i % 120 / 40;
    for (int c = 0; c < 3; ++c) bands.rgb.push_back(c == band ? 220 : 30);
  }
  const std::string path = folder / "bands.mkv";
  write_video(path, bands, 1);
  for (const auto& [height, width] : {std::pair{40, 40}, std::pair{16, 16}, std::pair{100, 100}, std::pair{48, 24}}) {
    const Frames back = read_video(path, {.height = height, .width = width});
    ASSERT_EQ(back.height, height);
    ASSERT_EQ(back.width, width);
    double sum[3] = {};
    for (std::size_t i = 0; i < back.rgb.size(); ++i) sum[i % 3] += back.rgb[i];
    const double n = static_cast<double>(back.rgb.size()) / 3;
    EXPECT_NEAR(sum[1] / n, 220, 12) << height;  // the green band alone
    EXPECT_NEAR(sum[0] / n, 30, 16) << height;
    EXPECT_NEAR(sum[2] / n, 30, 16) << height;
  }
  EXPECT_EQ(read_video(path, {.height = 20}).width, 60);
  EXPECT_EQ(read_video(path, {.width = 60}).height, 20);
  const Frames sliver = read_video(path, {.height = 200, .width = 2});
  EXPECT_EQ(sliver.rgb.size(), 1200u);
}

// A phone's video: the pixels lie on their side and the header says so. The matrix of the track is patched into the
// file.
TEST(Video, rotation_metadata) {
  const TemporaryFolder folder;
  Frames corner = solid_clip(2, 32, 64, 10, 20, 20, 20);
  for (int f = 0; f < 2; ++f) {
    for (int y = 0; y < 16; ++y) {
      for (int i = 0; i < 16 * 3; ++i) corner.rgb[static_cast<std::size_t>(f * 32 * 64 * 3 + y * 64 * 3 + i)] = 240;
    }
  }
  write_video(folder / "a.mp4", corner, 1);
  const std::string bytes = read_file(folder / "a.mp4");
  const auto at = bytes.find("tkhd");
  ASSERT_NE(at, std::string::npos);
  const auto rotated = [&](int a, int b, int c, int d) {
    std::string out = bytes;
    const auto put = [&](int index, int value) {
      const auto v = static_cast<std::uint32_t>(value) << 16;
      for (std::size_t i = 0; i < 4; ++i)
        out[at + 4 + 40 + static_cast<std::size_t>(index) * 4 + i] = static_cast<char>(v >> (24 - 8 * i));
    };
    put(0, a), put(1, b), put(3, c), put(4, d);
    write_file(folder / "b.mp4", out);
    return read_video(folder / "b.mp4");
  };
  const auto bright = [](const Frames& f, std::int64_t y, std::int64_t x) {
    return f.rgb[static_cast<std::size_t>((y * f.width + x) * 3)] > 128;
  };
  const Frames clockwise = rotated(0, 1, -1, 0);
  EXPECT_EQ(clockwise.width, 32);
  EXPECT_EQ(clockwise.height, 64);
  EXPECT_TRUE(bright(clockwise, 4, 27));
  EXPECT_FALSE(bright(clockwise, 4, 4));
  EXPECT_EQ(probe_video(folder / "b.mp4").width, 32);
  const Frames counter = rotated(0, -1, 1, 0);
  EXPECT_TRUE(bright(counter, 59, 4));
  EXPECT_FALSE(bright(counter, 4, 4));
  const Frames turned = rotated(-1, 0, 0, -1);
  EXPECT_EQ(turned.width, 64);
  EXPECT_TRUE(bright(turned, 27, 59));
  const Frames fitted = read_video(folder / "b.mp4", {.height = 16, .width = 32});
  EXPECT_TRUE(bright(fitted, 13, 29));
}

// Pixel formats that cameras and editors use, as raw YUV4MPEG: grey ramps come out grey, black and white where they
// belong.
TEST(Video, pixel_formats) {
  const TemporaryFolder folder;
  struct Case {
    const char* tag;
    int chroma_width, chroma_height, bits;
  };
  for (const Case& c : {Case{"420jpeg", 8, 8, 8}, Case{"422", 8, 16, 8}, Case{"444", 16, 16, 8}, Case{"411", 4, 16, 8},
                        Case{"mono", 0, 0, 8}, Case{"420p10", 8, 8, 10}, Case{"444p12", 16, 16, 12}}) {
    std::string file = std::string("YUV4MPEG2 W16 H16 F10:1 Ip A1:1 C") + c.tag + "\nFRAME\n";
    const auto put = [&](int value) {
      value <<= c.bits - 8;
      file += static_cast<char>(value);
      if (c.bits > 8) file += static_cast<char>(value >> 8);
    };
    const bool full = std::string(c.tag) == "mono";  // FFmpeg's grey is full range
    for (int i = 0; i < 256; ++i) put(i % 16 < 8 ? (full ? 0 : 16) : (full ? 255 : 235));
    for (int i = 0; i < 2 * c.chroma_width * c.chroma_height; ++i) put(128);
    write_file(folder / "a.y4m", file);
    const Frames frames = read_video(folder / "a.y4m");
    ASSERT_EQ(frames.rgb.size(), 768u) << c.tag;
    for (int channel = 0; channel < 3; ++channel) {
      EXPECT_NEAR(frames.rgb[static_cast<std::size_t>(channel)], 0, 3) << c.tag;
      EXPECT_NEAR(frames.rgb[static_cast<std::size_t>(45 + channel)], 255, 3) << c.tag;
    }
    EXPECT_EQ(read_video(folder / "a.y4m", {.height = 5, .width = 3}).rgb.size(), 45u) << c.tag;
  }
}

TEST(Video, truncated_files_give_what_came_before) {
  const TemporaryFolder folder;
  const Frames clip = moving_clip(24, 48, 64, 12);
  for (const auto& container : containers) {
    write_video(folder / ("whole." + container), clip);
    const std::string bytes = read_file(folder / ("whole." + container));
    const std::string path = folder / ("cut." + container);
    bool some = false;
    for (std::size_t n = 0; n < bytes.size(); n += bytes.size() / 23 + 1) {
      write_file(path, bytes.substr(0, n));
      try {
        const Frames frames = read_video(path);
        EXPECT_GT(frames.frames, 0);
        EXPECT_LE(frames.frames, clip.frames);
        EXPECT_EQ(frames.rgb.size(), static_cast<std::size_t>(frames.frames * 48 * 64 * 3));
        some = some || frames.frames < clip.frames;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), Error::Kind::file);
        EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      }
    }
    EXPECT_TRUE(some) << container << ": no truncation gave a part of the clip";
    if (container != "gif") {  // a GIF does not say how long it is
      write_file(path, bytes.substr(0, bytes.size() * 6 / 10));
      message_of(Error::Kind::file, [&] { read_video(path, {}, true); });
    }
  }
}

TEST(Video, flipped_bits_do_no_harm) {
  const TemporaryFolder folder;
  const Frames clip = moving_clip(8, 48, 64, 12);
  std::uint64_t state = 1;
  for (const auto& container : containers) {
    write_video(folder / ("whole." + container), clip);
    const std::string bytes = read_file(folder / ("whole." + container));
    const std::string path = folder / ("bad." + container);
    ::testing::internal::CaptureStderr();
    for (int round = 0; round < 60; ++round) {
      std::string bad = bytes;
      for (int i = 0; i < 1 + round / 10; ++i) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        // Half of the flips in the first bytes, where the sizes are.
        const std::size_t at = (state >> 33) % (round % 2 == 0 ? bad.size() : std::min<std::size_t>(bad.size(), 400));
        bad[at] = static_cast<char>(bad[at] ^ (1 << (state >> 20 & 7)));
      }
      write_file(path, bad);
      try {
        const Frames frames = read_video(path, {.fps = 12, .height = 32, .width = 32, .max_frames = 100});
        EXPECT_GT(frames.frames, 0);
        EXPECT_LE(frames.frames, 100);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), Error::Kind::file);
      }
    }
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "") << "FFmpeg's log reached stderr";
  }
}

TEST(Video, refuses_what_is_no_video) {
  const TemporaryFolder folder;
  message_of(Error::Kind::file, [&] { read_video(folder / "missing.mp4"); });
  message_of(Error::Kind::file, [&] { read_video(folder.path()); });
  ASSERT_EQ(::mkfifo((folder / "pipe.mp4").c_str(), 0600), 0);
  message_of(Error::Kind::file, [&] { read_video(folder / "pipe.mp4"); });
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::string>>{
           {"empty.mp4", ""}, {"text.mp4", "not a video\n"}, {"zeros.webm", std::string(10000, '\0')}}) {
    write_file(folder / name, bytes);
    const auto message = message_of(Error::Kind::file, [&, n = name] { read_video(folder / n); });
    EXPECT_NE(message.find(name), std::string::npos);
    message_of(Error::Kind::file, [&, n = name] { probe_video(folder / n); });
  }
  // Playlists and stream descriptions would make FFmpeg open other files and hosts.
  write_video(folder / "real.mp4", moving_clip(3, 32, 32, 12));
  write_file(folder / "list.mp4",
             "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n" + (folder / "real.mp4") + "\n#EXT-X-ENDLIST\n");
  message_of(Error::Kind::file, [&] { read_video(folder / "list.mp4"); });
  write_file(folder / "concat.mp4", "ffconcat version 1.0\nfile real.mp4\n");
  message_of(Error::Kind::file, [&] { read_video(folder / "concat.mp4"); });
  write_file(folder / "sdp.mp4",
             "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 50000 RTP/AVP 96\na=rtpmap:96 "
             "H264/90000\n");
  message_of(Error::Kind::file, [&] { read_video(folder / "sdp.mp4"); });
  // A path is a path, whatever it looks like.
  message_of(Error::Kind::file, [&] { read_video("concat:" + (folder / "real.mp4")); });
}

TEST(Video, refuses_wrong_arguments) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.mp4";
  const auto refused = [&](auto change) {
    Frames clip = moving_clip(2, 16, 16, 12);
    change(clip);
    message_of(Error::Kind::argument, [&] { write_video(path, clip); });
  };
  refused([](Frames& f) { f.rgb.pop_back(); });
  refused([](Frames& f) { f.frames = 0, f.rgb.clear(); });
  refused([](Frames& f) { f.height = -16; });
  refused([](Frames& f) { f.width = 1 << 20; });
  refused([](Frames& f) { f.fps = 0; });
  refused([](Frames& f) { f.fps = std::nan(""); });
  const Frames clip = moving_clip(2, 16, 16, 12);
  message_of(Error::Kind::argument, [&] { write_video(folder / "a.xyz", clip); });
  message_of(Error::Kind::argument, [&] { write_video("", clip); });
  message_of(Error::Kind::argument, [&] { write_video(path, clip, 1.5); });
  EXPECT_EQ(folder.entries(), 0u);
  write_video(path, clip);
  for (const ReadOptions& options :
       {ReadOptions{.fps = -1}, ReadOptions{.fps = std::nan("")}, ReadOptions{.height = -1},
        ReadOptions{.width = 20000}, ReadOptions{.max_frames = -1}, ReadOptions{.start = -1}}) {
    message_of(Error::Kind::argument, [&] { read_video(path, options); });
  }
}

TEST(Video, failed_writing_keeps_the_old_file) {
  const TemporaryFolder folder;
  const Frames clip = moving_clip(24, 96, 96, 12);
  for (const auto& container : containers) {
    const std::string path = folder / ("a." + container);
    write_file(path, "old");
    {
      const test::FullDisk disk(2048);
      message_of(Error::Kind::file, [&] { write_video(path, clip, 1); });
    }
    EXPECT_EQ(read_file(path), "old") << container;
    message_of(Error::Kind::file, [&] { write_video(folder / ("no/such/a." + container), clip); });
    message_of(Error::Kind::file, [&] { write_video("/proc/a." + container, clip); });
  }
  EXPECT_EQ(folder.entries(), containers.size());
}

TEST(Video, lists_files_by_extension) {
  const TemporaryFolder folder;
  for (const char* name : {"b.MP4", "a.webm", "c.gif", "notes.txt", "mp4"}) write_file(folder / name, "");
  make_directories(folder / "folder.mp4");
  EXPECT_EQ(video_files(folder.path()),
            (std::vector<std::string>{folder / "a.webm", folder / "b.MP4", folder / "c.gif"}));
  message_of(Error::Kind::file, [&] { video_files(folder / "missing"); });
}

TEST(Video, real_clips) {
  const auto clips = real_clips(VMOBA_SOURCE_DIR);
  if (clips.empty()) GTEST_SKIP() << "no real clips here; set VMOBA_CLIPS";
  for (const auto& path : clips) {
    const Frames frames = read_video(path, {.fps = 12, .height = 96, .width = 160}, true);
    EXPECT_NEAR(static_cast<double>(frames.frames), probe_video(path).seconds * 12, 2) << path;
    EXPECT_EQ(frames.rgb.size(), static_cast<std::size_t>(frames.frames * 96 * 160 * 3));
  }
}

TEST(Png, round_trip_and_damage) {
  const TemporaryFolder folder;
  const Frames image = moving_clip(1, 17, 23, 1);
  write_png(folder / "a.png", 23, 17, image.rgb.data());
  EXPECT_EQ(read_png(folder / "a.png").rgb, image.rgb);
  const std::string bytes = read_file(folder / "a.png");
  for (std::size_t n = 0; n + 20 < bytes.size(); n += 37) {  // the last bytes are only the end mark
    write_file(folder / "b.png", bytes.substr(0, n));
    message_of(Error::Kind::file, [&] { read_png(folder / "b.png"); });
  }
  std::string huge = bytes;
  huge[16] = 0x7f;  // the width's first byte; its checksum no longer fits either
  write_file(folder / "b.png", huge);
  message_of(Error::Kind::file, [&] { read_png(folder / "b.png"); });
  message_of(Error::Kind::argument, [&] { write_png(folder / "c.png", 0, 17, image.rgb.data()); });
  message_of(Error::Kind::file, [&] { write_png(folder / "no/c.png", 23, 17, image.rgb.data()); });
}

}  // namespace
}  // namespace vmoba::io
