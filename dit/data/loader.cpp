// SPDX-License-Identifier: Apache-2.0
// Prefetching of training batches.
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "dit/data/dataset.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {

// One thread is enough: a batch is cut out of latents that lie in memory or in mapped files.
struct Loader::State {
  std::shared_ptr<const Dataset> dataset;
  std::int64_t batch_size = 1, index = 0, stride = 1;
  std::size_t depth = 4;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr failure;
  bool stop = false;
  double waited = 0;
  std::thread thread;

  void run() {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || ready.size() < depth; });
        if (stop) return;
      }
      try {
        Batch batch = dataset->batch(Dataset::Split::train, index, batch_size);
        const std::lock_guard lock(mutex);
        ready.push_back(std::move(batch));
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
      }
      index += stride;
      changed.notify_all();
      const std::lock_guard lock(mutex);
      if (failure) return;
    }
  }
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, std::int64_t batch_size, std::int64_t first, std::int64_t stride,
               std::int64_t depth)
    : state_(std::make_unique<State>()) {
  const auto positive = [](const char* name, std::int64_t value, std::int64_t least) {
    if (value < least)
      throw_argument(name, std::to_string(value), "is too small", "use at least " + std::to_string(least));
  };
  positive("batch_size", batch_size, 1);
  positive("first", first, 0);
  positive("stride", stride, 1);
  positive("depth", depth, 1);
  if (!dataset) throw_argument("dataset", "null", "is missing", "open one first");
  state_->dataset = std::move(dataset);
  state_->batch_size = batch_size;
  state_->index = first;
  state_->stride = stride;
  state_->depth = static_cast<std::size_t>(depth);
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  if (state_->thread.joinable()) state_->thread.join();
}

Batch Loader::next() {
  std::unique_lock lock(state_->mutex);
  const auto here = [&] { return !state_->ready.empty() || state_->failure; };
  if (!here()) {
    const auto begin = std::chrono::steady_clock::now();
    state_->changed.wait(lock, here);
    state_->waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  if (state_->ready.empty()) std::rethrow_exception(state_->failure);
  Batch batch = std::move(state_->ready.front());
  state_->ready.pop_front();
  lock.unlock();
  state_->changed.notify_all();
  return batch;
}

double Loader::waited() const {
  const std::lock_guard lock(state_->mutex);
  return state_->waited;
}

}  // namespace vmoba::dit
