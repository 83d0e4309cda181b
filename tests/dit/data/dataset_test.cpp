// SPDX-License-Identifier: Apache-2.0
// Datasets: determinism, splits, captions, skipped files, the cache, the loader.
#include "dit/data/dataset.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "../../io/clips.hpp"
#include "../../io/temporary.hpp"
#include "io/file.hpp"
#include "io/safetensors.hpp"

namespace vmoba::dit {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TemporaryFolder;

std::shared_ptr<const Tokenizer> tokenizer() { return make_dct_tokenizer(); }

DataOptions small(const std::string& directory = "") {
  DataOptions o;
  o.directory = directory;
  o.height = 32, o.width = 48;
  o.crop = {3, 4, 5};
  o.rendered_clips = 6;
  o.held_out = 0.3;
  o.text_length = 24;
  return o;
}

void write_clip(const std::string& path, std::uint64_t seed, std::int64_t frames) {
  const RenderedClip clip = render_clip(seed, frames, 32, 48);
  const auto* p = clip.rgb.const_data_ptr<std::uint8_t>();
  io::write_video(path, {frames, 32, 48, 12, std::vector<std::uint8_t>(p, p + clip.rgb.numel())});
}

void expect_same(const Batch& a, const Batch& b) {
  EXPECT_TRUE(at::equal(a.latents, b.latents));
  EXPECT_EQ(a.captions, b.captions);
  ASSERT_EQ(a.text_ids.defined(), b.text_ids.defined());
  if (a.text_ids.defined()) {
    EXPECT_TRUE(at::equal(a.text_ids, b.text_ids));
  }
}

TEST(Dataset, rendered_batches_depend_on_options_and_index_only) {
  DataOptions o = small();
  const auto one = Dataset::open(o, tokenizer());
  o.threads = 3;
  const auto other = Dataset::open(o, tokenizer());
  EXPECT_EQ(one->clips(), 6);
  EXPECT_EQ(one->skipped(), 0);
  EXPECT_EQ(one->identity(), other->identity());
  std::set<std::string> train, validation;
  for (std::int64_t i = 7; i >= 0; --i) {
    const Batch a = one->batch(Dataset::Split::train, i, 2);
    expect_same(a, other->batch(Dataset::Split::train, i, 2));
    EXPECT_EQ(a.latents.sizes(), (std::vector<std::int64_t>{2, 16, 3, 4, 5}));
    EXPECT_EQ(a.text_ids.sizes(), (std::vector<std::int64_t>{2, 24}));
    EXPECT_FALSE(a.text.defined());
    EXPECT_TRUE(at::equal(a.text_ids[1], caption_ids(a.captions[1], 24)));
    // A batch is its samples.
    expect_same({a.latents[1].unsqueeze(0), a.text_ids[1].unsqueeze(0), {}, {a.captions[1]}},
                one->batch(Dataset::Split::train, 2 * i + 1, 1));
    train.insert(a.captions.begin(), a.captions.end());
    for (const auto& caption : one->batch(Dataset::Split::validation, i, 1).captions) validation.insert(caption);
  }
  EXPECT_EQ(train.size(), 4u);
  EXPECT_EQ(validation.size(), 2u);
  for (const auto& caption : validation) EXPECT_FALSE(train.contains(caption)) << "held-out clips are trained on";
  EXPECT_FALSE(
      at::equal(one->batch(Dataset::Split::train, 0, 4).latents, one->batch(Dataset::Split::train, 1, 4).latents));
  o.seed = 1;
  EXPECT_NE(Dataset::open(o, tokenizer())->identity(), one->identity());
  message_of(Error::Kind::argument, [&] { one->batch(Dataset::Split::train, -1, 1); });
  message_of(Error::Kind::argument, [&] { one->batch(Dataset::Split::train, 0, 0); });
}

TEST(Dataset, files_with_captions_broken_ones_skipped) {
  const TemporaryFolder folder;
  write_clip(folder / "a_red_one.webm", 1, 41);  // 11 latent frames
  write_clip(folder / "b.mp4", 2, 41);
  write_clip(folder / "c.gif", 3, 41);
  write_clip(folder / "d.mkv", 4, 41);
  write_clip(folder / "e.mp4", 5, 41);
  write_clip(folder / "short.mp4", 6, 5);
  io::write_file(folder / "broken.mp4", "nonsense");
  io::write_file(folder / "b.txt", "\xEF\xBB\xBF  from a text file\r\n");  // as some editors save it
  io::write_file(folder / "d.txt", "caf\xE9");
  io::write_file(folder / "captions.json", R"({"c": "from JSON", "b.mp4": "hidden by the text file", "x": 3})");
  io::write_file(folder / "captions.csv", "file,caption\ne.mp4,\"from CSV, with \"\"quotes\"\"\"\nd,\xFF\n");
  std::vector<std::string> lines;
  DataOptions o = small(folder.path());
  o.threads = 2;
  o.log = [&](const std::string& line) { lines.push_back(line); };
  const auto data = Dataset::open(o, tokenizer());
  EXPECT_EQ(data->clips(), 5);
  EXPECT_EQ(data->skipped(), 2);
  std::set<std::string> captions;
  for (int i = 0; i < 5; ++i) captions.insert(data->batch(Dataset::Split::train, i, 1).captions[0]);
  EXPECT_EQ(captions,
            (std::set<std::string>{"a red one", "from a text file", "from JSON", "d", "from CSV, with \"quotes\""}));
  const auto said = [&](const std::string& a, const std::string& b) {
    return std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
      EXPECT_EQ(line.find('\n'), std::string::npos);
      return line.find(a) != std::string::npos && line.find(b) != std::string::npos;
    });
  };
  EXPECT_EQ(said("skipped", "broken.mp4"), 1);
  EXPECT_EQ(said("skipped", "short.mp4"), 1);
  EXPECT_EQ(said("short.mp4", "0.75 s"), 1) << "the needed length";
  EXPECT_EQ(said("d.txt", "UTF-8"), 1);
  EXPECT_EQ(said("captions.csv", "UTF-8"), 1);
  EXPECT_EQ(lines.size(), 4u);
}

TEST(Dataset, captions_json_may_be_a_list_or_damaged) {
  const TemporaryFolder folder;
  write_clip(folder / "a.mp4", 1, 25);
  const auto caption = [&](const std::string& json) {
    io::write_file(folder / "captions.json", json);
    return Dataset::open(small(folder.path()), tokenizer())->batch(Dataset::Split::train, 0, 1).captions[0];
  };
  EXPECT_EQ(caption(R"([{"file": "a.mp4", "caption": "listed"}, 3, {"file": 1}])"), "listed");
  EXPECT_EQ(caption("{\"a\": \"\xFF\"}"), "a");
  EXPECT_EQ(caption("{"), "a");
  EXPECT_EQ(caption(std::string(100000, '[')), "a");
  EXPECT_EQ(caption(std::string(100000, '[') + std::string(100000, ']')), "a");
  EXPECT_EQ(caption("7"), "a");
  std::filesystem::remove(folder / "captions.json");
  io::write_file(folder / "captions.csv",
                 "\xEF\xBB\xBF"
                 "a.mp4,first of a marked file\r\n");
  EXPECT_EQ(Dataset::open(small(folder.path()), tokenizer())->batch(Dataset::Split::train, 0, 1).captions[0],
            "first of a marked file");
}

// The cut in time: what validation shows is never trained on. Frames are counted by their grey level.
TEST(Dataset, files_hold_out_their_end) {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, std::int64_t frames) {
    io::Frames clip{frames, 32, 48, 12, {}};
    for (std::int64_t f = 0; f < frames; ++f)
      clip.rgb.insert(clip.rgb.end(), 32 * 48 * 3, static_cast<std::uint8_t>(20 + 2 * f));
    io::write_video(folder / name, clip, 1);
  };
  write("a.mp4", 81);  // 21 latent frames, of which max(3, ceil(0.3 * 21)) = 7 are held out
  const auto data = Dataset::open(small(folder.path()), tokenizer());
  double last_train = -1e9, first_validation = 1e9;
  for (int i = 0; i < 60; ++i) {
    last_train = std::max(last_train, data->batch(Dataset::Split::train, i, 1).latents[0][0].max().item<double>());
    first_validation =
        std::min(first_validation, data->batch(Dataset::Split::validation, i, 1).latents[0][0].min().item<double>());
  }
  EXPECT_LT(last_train, first_validation);
  // Whole range used: latent frame 13 ends at pixel frame 52, validation begins with frame 53.
  const auto level = [&](double frame) { return (16 * ((20 + 2 * frame) / 127.5 - 1) + 2.1376) / 3.9129; };
  EXPECT_NEAR(last_train, level(50.5), 0.05);
  EXPECT_NEAR(first_validation, level(54.5), 0.05);
}

TEST(Dataset, short_files_are_held_out_whole) {
  const TemporaryFolder folder;
  for (int i = 0; i < 3; ++i)
    write_clip(folder / ("clip" + std::to_string(i) + ".mp4"), static_cast<std::uint64_t>(i),
               17);  // 5 latents: one crop only
  const auto data = Dataset::open(small(folder.path()), tokenizer());
  std::set<std::string> train, validation;
  for (int i = 0; i < 6; ++i) {
    train.insert(data->batch(Dataset::Split::train, i, 1).captions[0]);
    validation.insert(data->batch(Dataset::Split::validation, i, 1).captions[0]);
  }
  EXPECT_EQ(train, (std::set<std::string>{"clip0", "clip1"}));
  EXPECT_EQ(validation, (std::set<std::string>{"clip2"}));
  fs::remove(folder / "clip1.mp4");
  fs::remove(folder / "clip2.mp4");
  int lines = 0;
  DataOptions o = small(folder.path());
  o.log = [&](const std::string&) { ++lines; };
  EXPECT_EQ(Dataset::open(o, tokenizer())->batch(Dataset::Split::validation, 0, 1).captions[0], "clip0");
  EXPECT_EQ(lines, 1) << "nobody hears that validation is not held out";
}

TEST(Dataset, empty_results_are_errors) {
  const TemporaryFolder folder;
  message_of(Error::Kind::file, [&] { Dataset::open(small(folder / "missing"), tokenizer()); });
  message_of(Error::Kind::file, [&] { Dataset::open(small(folder.path()), tokenizer()); });
  io::write_file(folder / "broken.mp4", "nonsense");
  const auto message = message_of(Error::Kind::file, [&] { Dataset::open(small(folder.path()), tokenizer()); });
  EXPECT_NE(message.find("1 skipped"), std::string::npos);
  EXPECT_NE(message.find("broken.mp4"), std::string::npos);
}

TEST(Dataset, refuses_wrong_options) {
  const auto refused = [](auto change) {
    DataOptions o = small();
    change(o);
    message_of(Error::Kind::argument, [&] { Dataset::open(o, tokenizer()); });
  };
  refused([](DataOptions& o) { o.height = 30; });
  refused([](DataOptions& o) { o.crop[0] = 0; });
  refused([](DataOptions& o) { o.crop[1] = 5; });
  refused([](DataOptions& o) { o.crop[2] = 7; });
  refused([](DataOptions& o) { o.fps = 0; });
  refused([](DataOptions& o) { o.held_out = 1; });
  refused([](DataOptions& o) { o.rendered_clips = 0; });
  refused([](DataOptions& o) { o.threads = 0; });
  refused([](DataOptions& o) { o.text_length = 0; });
  refused([](DataOptions& o) { o.text_dim = 8; });
  message_of(Error::Kind::argument, [] { Dataset::open(small(), nullptr); });
}

TEST(Dataset, embeddings) {
  const TemporaryFolder folder;
  write_clip(folder / "a.mp4", 1, 25);
  write_clip(folder / "b.mp4", 1, 25);
  write_clip(folder / "c.mp4", 1, 25);
  std::vector<float> values(3 * 4);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  io::write_safetensors(folder / "a.safetensors", {{"text", "F32", {1, 3, 4}, values.data()}});
  io::write_safetensors(folder / "b.safetensors", {{"text", "F32", {4, 3}, values.data()}});
  values[5] = std::nanf("");
  io::write_safetensors(folder / "c.safetensors", {{"text", "F32", {3, 4}, values.data()}});
  DataOptions o = small(folder.path());
  o.text_dim = 4;
  o.text_length = 5;
  const auto data = Dataset::open(o, tokenizer());
  EXPECT_EQ(data->clips(), 1);
  EXPECT_EQ(data->skipped(), 2);
  const Batch batch = data->batch(Dataset::Split::train, 0, 2);
  EXPECT_FALSE(batch.text_ids.defined());
  ASSERT_EQ(batch.text.sizes(), (std::vector<std::int64_t>{2, 5, 4}));
  EXPECT_TRUE(at::equal(batch.text[1].narrow(0, 0, 3).flatten(), at::arange(12, at::kFloat)));
  EXPECT_EQ(batch.text.narrow(1, 3, 2).abs().sum().item<float>(), 0);
}

TEST(Cache, used_rebuilt_when_stale_and_never_trusted) {
  const TemporaryFolder folder;
  write_clip(folder / "a.mp4", 1, 25);
  std::vector<std::string> lines;
  DataOptions o = small(folder.path());
  o.log = [&](const std::string& line) { lines.push_back(line); };
  const std::string cache = o.cache = folder / "cache";
  const auto latents = [&] { return Dataset::open(o, tokenizer())->batch(Dataset::Split::train, 0, 3).latents; };
  const at::Tensor fresh = latents();
  ASSERT_TRUE(fs::exists(cache + "/manifest.json"));
  EXPECT_NE(io::read_file(cache + "/manifest.json").find("\"a.mp4\""), std::string::npos);
  std::string shard;
  for (const auto& entry : fs::directory_iterator(cache)) {
    if (entry.path().extension() == ".safetensors") shard = entry.path().string();
  }
  ASSERT_FALSE(shard.empty());
  const auto written = fs::last_write_time(shard);
  EXPECT_TRUE(at::equal(latents(), fresh));
  EXPECT_EQ(fs::last_write_time(shard), written) << "decoded again";

  // The video is not read while the cache is fresh: other bytes of the same size and time go unseen.
  const std::string bytes = io::read_file(folder / "a.mp4");
  const auto time = fs::last_write_time(folder / "a.mp4");
  io::write_file(folder / "a.mp4", std::string(bytes.size(), 'x'));
  fs::last_write_time(folder / "a.mp4", time);
  EXPECT_TRUE(at::equal(latents(), fresh));
  // Another time or size is another file.
  fs::last_write_time(folder / "a.mp4", time + std::chrono::seconds(1));
  message_of(Error::Kind::file, [&] { latents(); });
  write_clip(folder / "a.mp4", 2, 25);
  const at::Tensor changed = latents();
  EXPECT_FALSE(at::equal(changed, fresh));
  EXPECT_TRUE(at::equal(latents(), changed));
  // So is another transform.
  o.fps = 6;
  EXPECT_FALSE(at::equal(latents(), changed));
  o.fps = 12;
  EXPECT_TRUE(at::equal(latents(), changed));

  lines.clear();
  const std::string good = io::read_file(shard);
  for (const std::string& bad : {std::string("x"), good.substr(0, good.size() - 4), std::string()}) {
    io::write_file(shard, bad);
    lines.clear();
    EXPECT_TRUE(at::equal(latents(), changed));
    EXPECT_EQ(lines.size(), 1u);
    EXPECT_EQ(io::read_file(shard), good) << "not repaired";
  }
  std::string poisoned = good;
  for (std::size_t i = 1; i <= 4; ++i) poisoned[poisoned.size() - i] = '\xFF';  // a NaN
  io::write_file(shard, poisoned);
  EXPECT_TRUE(at::equal(latents(), changed));
  io::write_file(cache + "/manifest.json", "{\"shards\": {\"../../etc\": {}}, [");
  io::write_file(shard, "x");
  EXPECT_TRUE(at::equal(latents(), changed));
  EXPECT_NE(io::read_file(cache + "/manifest.json").find("\"a.mp4\""), std::string::npos);
}

TEST(Cache, unwritable_folder_falls_back_to_memory) {
  const TemporaryFolder folder;
  write_clip(folder / "a.mp4", 1, 25);
  DataOptions o = small(folder.path());
  const at::Tensor expected = Dataset::open(o, tokenizer())->batch(Dataset::Split::train, 0, 1).latents;
  std::vector<std::string> lines;
  o.log = [&](const std::string& line) { lines.push_back(line); };
  io::write_file(folder / "file", "");
  for (const std::string& cache : {folder / "file", std::string("/proc/vmoba-cache")}) {
    lines.clear();
    o.cache = cache;
    EXPECT_TRUE(at::equal(Dataset::open(o, tokenizer())->batch(Dataset::Split::train, 0, 1).latents, expected));
    EXPECT_EQ(lines.size(), 1u) << cache;
  }
}

TEST(Cache, keeps_rendered_clips_when_asked) {
  const TemporaryFolder folder;
  DataOptions o = small();
  const auto plain = Dataset::open(o, tokenizer());
  o.cache = folder / "cache";
  const auto first = Dataset::open(o, tokenizer()), second = Dataset::open(o, tokenizer());
  EXPECT_EQ(plain->identity(), first->identity());
  EXPECT_EQ(first->identity(), second->identity());
  expect_same(plain->batch(Dataset::Split::train, 3, 2), second->batch(Dataset::Split::train, 3, 2));
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(o.cache)) ++files;
  EXPECT_EQ(files, 7u);
}

TEST(Loader, gives_the_batches_of_the_dataset_in_order) {
  const auto data = Dataset::open(small(), tokenizer());
  for (const std::int64_t depth : {1, 3}) {
    Loader loader(data, 2, 5, 3, depth);
    for (std::int64_t i = 0; i < 6; ++i) expect_same(loader.next(), data->batch(Dataset::Split::train, 5 + 3 * i, 2));
    EXPECT_GE(loader.waited(), 0);
  }
  Loader unused(data, 1, 0, 1);  // and goes without being asked anything
  message_of(Error::Kind::argument, [&] { Loader(data, 0, 0, 1); });
  message_of(Error::Kind::argument, [&] { Loader(data, 1, -1, 1); });
  message_of(Error::Kind::argument, [&] { Loader(data, 1, 0, 0); });
  message_of(Error::Kind::argument, [&] { Loader(nullptr, 1, 0, 1); });
}

// Slow, then failing.
class Failing final : public Dataset {
 public:
  std::int64_t clips() const override { return 1; }
  std::int64_t skipped() const override { return 0; }
  std::string identity() const override { return ""; }
  Batch batch(Split, std::int64_t index, std::int64_t) const override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (index == 2) throw_file("clip", "went away", "bring it back");
    Batch out;
    out.latents = at::full({1}, index);
    return out;
  }
};

TEST(Loader, failures_surface_in_their_turn) {
  Loader loader(std::make_shared<Failing>(), 1, 0, 1);
  EXPECT_EQ(loader.next().latents.item<int>(), 0);
  EXPECT_EQ(loader.next().latents.item<int>(), 1);
  EXPECT_GT(loader.waited(), 0.005);
  message_of(Error::Kind::file, [&] { loader.next(); });
  message_of(Error::Kind::file, [&] { loader.next(); });
}

TEST(Dataset, real_clips) {
  const auto clips = test::real_clips(VMOBA_SOURCE_DIR);
  if (clips.empty()) GTEST_SKIP() << "no real clips here; set VMOBA_CLIPS";
  const TemporaryFolder folder;
  DataOptions o = small(fs::path(clips[0]).parent_path().string());
  o.cache = folder / "cache";
  o.height = 96, o.width = 160;
  o.crop = {12, 12, 20};
  o.threads = 2;
  const auto data = Dataset::open(o, tokenizer());
  EXPECT_EQ(data->clips(), static_cast<std::int64_t>(clips.size()));
  EXPECT_EQ(data->skipped(), 0);
  const Batch batch = data->batch(Dataset::Split::train, 0, 6);
  EXPECT_TRUE(at::isfinite(batch.latents).all().item<bool>());
  EXPECT_NEAR(batch.latents.std().item<double>(), 1, 0.5);
}

}  // namespace
}  // namespace vmoba::dit
