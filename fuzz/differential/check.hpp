// SPDX-License-Identifier: Apache-2.0
// Runs a case through every tier of the cpu and compares with reference: selection outside the tie band, out, lse and
// all gradients within their bounds, the same bits for any threads, a batch equal to its samples.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "check/compare.hpp"
#include "check/selections.hpp"
#include "differential/bounds.hpp"
#include "differential/case.hpp"
#include "differential/data.hpp"

namespace vmoba::fuzz {

struct Finding {
  std::string tier, what;  // what "": none
};

// Names of the tiers that this machine can run.
inline std::vector<std::string> tiers() {
  std::vector<std::string> names;
  for (const Backend& backend : backends()) {
    if (backend.name.starts_with("cpu:") && backend.unavailable().empty()) names.emplace_back(backend.name);
  }
  return names;
}

// NaN is NaN, whatever its bits.
inline bool same_values(const Tensor& a, const Tensor& b) {
  bool same = true;
  a.for_each([&](std::int64_t i, std::int64_t r, std::int64_t h, std::int64_t d) {
    const double x = a.get(i, r, h, d), y = b.get(i, r, h, d);
    same &= (std::isnan(x) && std::isnan(y)) || (x == y && std::signbit(x) == std::signbit(y));
  });
  return same;
}

// "" or where actual leaves its bound. Results that are not finite must be where the truth has them; NaN and infinities
// are told apart only where no infinity went in (0 times infinity is NaN, and fp32 has zeros where double has not).
inline std::string out_of_bound(const char* what, const Tensor& actual, const Tensor& truth, const Bound& bound,
                                bool infinities) {
  std::string text;
  std::size_t i = 0;
  std::int64_t bad = 0;
  actual.for_each([&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
    const double a = actual.get(b, r, h, d), e = truth.get(b, r, h, d), most = bound.error[i];
    const bool free = bound.free[i++] != 0;
    bool good;
    if (free) {
      good = true;
    } else if (std::isfinite(e)) {
      good = std::isfinite(a) && !(std::abs(a - e) > most);
    } else {
      good = infinities ? !std::isfinite(a) : std::isnan(e) ? std::isnan(a) : a == e;
    }
    if (good || ++bad > 1) return;
    std::ostringstream words;
    words << what << "[batch " << b << ", row " << r << ", head " << h << ", channel " << d << "] is " << a
          << ", truth " << e << ", bound " << most;
    text = words.str();
  });
  if (bad > 1) text += " (and " + std::to_string(bad - 1) + " more)";
  return text;
}

inline Execution execution_of(const Case& c, ThreadPool& pool, const std::string& tier) {
  if (c.workers == Workers::pool) return pool.execution(tier);
  Execution execution{.backend = tier, .threads = c.threads};
  const bool backwards = c.workers == Workers::backwards;
  execution.parallel_for = [backwards](std::int64_t workers, const std::function<void(std::int64_t)>& body) {
    for (std::int64_t i = 0; i < workers; ++i) body(backwards ? workers - 1 - i : i);
  };
  return execution;
}

// Into words that start as ones, so that a bit nobody writes shows.
inline Selection select_with(const Problem& p, ConstView q, ConstView k, const Execution& execution) {
  Selection selection(p);
  for (std::uint64_t& word : selection.words()) word = ~std::uint64_t{0};
  select_into(p, q, k, selection, execution);
  return selection;
}

class Check {
 public:
  explicit Check(const Case& c) : c_(c), p_(c.options), inputs_(make_tensors(c, p_)) {
    const auto select = [&] { return select_with(p_, inputs_.q, inputs_.k, {.backend = "reference"}); };
    reference_ = select();
    selection_ = make_selection(c, p_, reference_);
    if (c.hide && hide_poison(p_, selected(), inputs_)) reference_ = select(), hidden_ = true;
    infinities_ = c.poison == Poison::plus_infinity || c.poison == Poison::minus_infinity;
  }

  Finding run(const std::vector<std::string>& names) {
    for (const std::string& tier : names) {
      std::string what = check_select(tier);
      if (what.empty()) what = check_attend(tier);
      if (!what.empty()) return {tier, what};
    }
    return {};
  }

 private:
  const Selection* selected() const { return selection_ ? &*selection_ : nullptr; }

  // Many gates are equal, or differ only by the rounding of block means.
  bool tie_rich() const { return c_.data == Data::integers || c_.data == Data::equal_keys || c_.data == Data::zeros; }
  // Gates are small integers over powers of two: the same in fp32 and double, so that the tie rule decides alone.
  bool exact_ties() const {
    if ((c_.data != Data::integers && c_.data != Data::zeros) || c_.poison != Poison::none || hidden_) return false;
    for (std::int64_t b = 0; b < p_.batch(); ++b) {
      const Partition& partition = *p_.sample(b).partition;
      for (std::int64_t block = 0; block < partition.blocks(); ++block) {
        const auto size = static_cast<std::uint64_t>(partition.size(block));
        if ((size & (size - 1)) != 0) return false;
      }
    }
    return true;
  }

  // Gates that fp32 cannot hold, or holds as subnormals, are compared between threads and samples only.
  bool gates_fit() const {
    if (c_.poison == Poison::subnormal && c_.poison_tensor < 2) return false;
    double most = static_cast<double>(p_.dim());
    for (const Tensor* tensor : {&inputs_.q, &inputs_.k}) {
      double size = 0;
      for (const double x : tensor->doubles()) {
        if (std::isfinite(x)) size = std::max(size, std::abs(x));
      }
      most *= size;
    }
    return most < 1e37;
  }

  std::string check_select(const std::string& tier) {
    ThreadPool pool(c_.threads);
    Rng layout(static_cast<std::uint64_t>(c_.layout));
    Rng* const strides = c_.layout ? &layout : nullptr;
    Strided q(inputs_.q, strides), k(inputs_.k, strides);
    const Selection actual = select_with(p_, q.view(), k.view(), execution_of(c_, pool, tier));
    if (!(select_with(p_, inputs_.q, inputs_.k, {.backend = tier}) == actual)) {
      return "select: other bits for " + std::to_string(c_.threads) + " threads than for 1";
    }
    std::string what = check_promises(actual);
    if (!what.empty()) return what;
    bool known = actual == reference_;
    for (const Selection& good : good_) known |= actual == good;
    if (!known && gates_fit()) {
      if (exact_ties() && std::holds_alternative<TopK>(p_.policy())) return "select: exact gates, yet not as reference";
      const test::SelectionDifference d = test::selection_difference(p_, inputs_.q, inputs_.k, actual);
      if (d.wrong > 0) {
        return "select: " + std::to_string(d.wrong) + " of " + std::to_string(d.pairs) + " pairs: " + d.first_wrong;
      }
      if ((!tie_rich() || exact_ties()) && d.in_band > 8 + d.pairs / 1000) {
        return "select: " + std::to_string(d.in_band) + " of " + std::to_string(d.pairs) +
               " pairs differ inside the tie band, too many for rounding";
      }
      good_.push_back(actual);
    }
    for (std::int64_t b = 0; p_.batch() > 1 && b < p_.batch(); ++b) {
      const Problem alone = test::only_sample(p_, b);
      const Selection sample = select_with(alone, test::only_sample(p_, inputs_.q, b),
                                           test::only_sample(p_, inputs_.k, b), {.backend = tier});
      for (std::int64_t h = 0; h < p_.heads(); ++h) {
        for (std::int64_t block = 0; block < actual.blocks(b); ++block) {
          if (!std::equal(actual.words_of(b, h, block), actual.words_of(b, h, block) + actual.shape(b).words(),
                          sample.words_of(0, h, block))) {
            return "select: sample " + std::to_string(b) + " of the batch differs from the sample alone";
          }
        }
      }
    }
    return "";
  }

  // What holds whatever the gates are.
  std::string check_promises(const Selection& actual) const {
    std::int64_t least = 1;
    std::optional<std::int64_t> most;
    std::visit(
        [&](const auto& rule) {
          if constexpr (requires { rule.min_blocks; }) least = rule.min_blocks, most = rule.max_blocks;
        },
        p_.policy());
    const auto* top = std::get_if<TopK>(&p_.policy());
    const bool count = top != nullptr && least == 1 && !most;
    for (std::int64_t b = 0; b < p_.batch(); ++b) {
      const std::int64_t blocks = actual.blocks(b), rows = actual.shape(b).rows();
      std::int64_t all = 0;
      for (std::int64_t h = 0; h < p_.heads(); ++h) {
        for (std::int64_t block = 0; rows % 64 != 0 && block < blocks; ++block) {
          if (actual.words_of(b, h, block)[rows / 64] >> (rows % 64)) return "select: unused high bits are set";
        }
        const std::vector<std::int64_t> counts = actual.counts(b, h);
        std::int64_t head = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
          head += counts[row];
          const bool own = actual.test(b, h, row, p_.sample(b).partition->own(row));
          if (!own || counts[row] < std::min(least, blocks) || (most && counts[row] > *most) ||
              (count && top->scope == Scope::query && counts[row] != std::min(top->k, blocks))) {
            return "select: sample " + std::to_string(b) + " head " + std::to_string(h) + " row " +
                   std::to_string(row) + " has " + std::to_string(counts[row]) + " blocks, " +
                   (own ? "its own among them" : "its own not among them");
          }
        }
        if (count && top->scope == Scope::head && head != rows * std::min(top->k, blocks)) {
          return "select: TopK keeps " + std::to_string(head) + " pairs of head " + std::to_string(h);
        }
        all += head;
      }
      if (count && top->scope == Scope::all && all != rows * p_.heads() * std::min(top->k, blocks)) {
        return "select: TopK keeps " + std::to_string(all) + " pairs of sample " + std::to_string(b);
      }
    }
    return "";
  }

  void make_truth() {
    if (truth_) return;
    // The contract's own measure, for problems small enough to compute it.
    if (c_.poison == Poison::none && !hidden_ && products_of(c_.options) < 4e6) {
      standard_.emplace(p_, selected(), inputs_, c_.with_dlse);
      truth_ = standard_->truth;
    } else {
      truth_ = test::truth(p_, selected(), inputs_, c_.with_dlse);
    }
    bounds_.emplace(p_, selected(), inputs_, *truth_, c_.with_dlse);
  }

  // Forward and backward at strides, into what is read back contiguous.
  std::string run_strided(const Execution& execution, Tensors& result) {
    Rng layout(static_cast<std::uint64_t>(c_.layout) + 1);
    Rng* const strides = c_.layout ? &layout : nullptr;
    Tensors start = inputs_;
    start.poison_outputs();
    Strided q(start.q, strides), k(start.k, strides), v(start.v, strides), dout(start.dout, strides);
    Strided dlse(start.dlse, strides), out(start.out, strides), lse(start.lse, strides);
    Strided dq(start.dq, strides), dk(start.dk, strides), dv(start.dv, strides);
    const Selection* const selection = selected();
    if (!c_.with_lse) {  // out does not depend on who wants lse
      selection ? attend(p_, *selection, q.view(), k.view(), v.view(), out.view(), {}, execution)
                : attend(p_, q.view(), k.view(), v.view(), out.view(), {}, execution);
      result.out = out.read();
    }
    selection ? attend(p_, *selection, q.view(), k.view(), v.view(), out.view(), lse.view(), execution)
              : attend(p_, q.view(), k.view(), v.view(), out.view(), lse.view(), execution);
    if (!c_.with_lse && !same_values(result.out, out.read())) return "attend: other bits of out without lse";
    const BackwardTensors tensors{q.view(),
                                  k.view(),
                                  v.view(),
                                  out.view(),
                                  lse.view(),
                                  dout.view(),
                                  c_.with_dlse ? ConstView(dlse.view()) : ConstView{},
                                  dq.view(),
                                  dk.view(),
                                  dv.view()};
    selection ? attend_backward(p_, *selection, tensors, execution) : attend_backward(p_, tensors, execution);
    for (Strided* s : {&q, &k, &v, &dout, &dlse, &out, &lse, &dq, &dk, &dv}) {
      if (!s->gaps_untouched()) return "attend: memory between the elements of a strided tensor was written";
    }
    result.out = out.read(), result.lse = lse.read();
    result.dq = dq.read(), result.dk = dk.read(), result.dv = dv.read();
    return "";
  }

  static std::string compare_bits(const Tensors& a, const Tensors& b, const std::string& why) {
    const std::pair<const char*, Tensor Tensors::*> all[]{{"out", &Tensors::out},
                                                          {"lse", &Tensors::lse},
                                                          {"dq", &Tensors::dq},
                                                          {"dk", &Tensors::dk},
                                                          {"dv", &Tensors::dv}};
    for (const auto& [name, member] : all) {
      if (!same_values(a.*member, b.*member)) return std::string(name) + ": other bits " + why;
    }
    return "";
  }

  std::string check_attend(const std::string& tier) {
    make_truth();
    ThreadPool pool(c_.threads);
    Tensors actual = inputs_;
    std::string what = run_strided(execution_of(c_, pool, tier), actual);
    if (!what.empty()) return what;
    what = out_of_bound("out", actual.out, truth_->out, bounds_->out, infinities_);
    if (what.empty()) what = out_of_bound("lse", actual.lse, truth_->lse, bounds_->lse, infinities_);
    if (what.empty()) what = out_of_bound("dq", actual.dq, truth_->dq, bounds_->dq, infinities_);
    if (what.empty()) what = out_of_bound("dk", actual.dk, truth_->dk, bounds_->dk, infinities_);
    if (what.empty()) what = out_of_bound("dv", actual.dv, truth_->dv, bounds_->dv, infinities_);
    if (what.empty() && standard_) what = contract(actual);
    if (!what.empty()) return what;

    Tensors one = inputs_;
    test::run(p_, selected(), one, {.backend = tier}, c_.with_dlse);
    what = compare_bits(actual, one, "for " + std::to_string(c_.threads) + " threads than for 1");
    if (!what.empty() || p_.batch() == 1) return what;
    return check_samples(tier, one);
  }

  // Half as much again as a test allows: in thousands of random problems a naive error is sometimes a lucky one (107 %
  // of its budget in the worst of 32 rows, once in 10,000 problems). Single elements have bounds that know no luck.
  std::string contract(const Tensors& actual) const {
    std::string text;
    for (const test::Verdict& v : test::judge(actual, *standard_)) {
      if (v.ours.special != 0 || v.used() > 1.5) text += words(v);
    }
    return text;
  }

  std::string check_samples(const std::string& tier, const Tensors& batch) const {
    for (std::int64_t b = 0; b < p_.batch(); ++b) {
      const Problem alone = test::only_sample(p_, b);
      Tensors t = Tensors::zeros_of(alone), expected = t;
      const auto part = [&](const Tensor& tensor) { return test::only_sample(p_, tensor, b); };
      t.q = part(inputs_.q), t.k = part(inputs_.k), t.v = part(inputs_.v);
      t.dout = part(inputs_.dout), t.dlse = part(inputs_.dlse);
      std::optional<Selection> selection;
      if (selection_) {
        selection.emplace(std::vector<Selection::Shape>{selection_->shape(b)}, p_.heads());
        for (std::int64_t h = 0; h < p_.heads(); ++h) {
          for (std::int64_t block = 0; block < selection->blocks(0); ++block) {
            std::copy_n(selection_->words_of(b, h, block), selection->shape(0).words(),
                        selection->words_of(0, h, block));
          }
        }
      }
      test::run(alone, selection ? &*selection : nullptr, t, {.backend = tier}, c_.with_dlse);
      expected.out = part(batch.out), expected.lse = part(batch.lse);
      expected.dq = part(batch.dq), expected.dk = part(batch.dk), expected.dv = part(batch.dv);
      const std::string what =
          compare_bits(expected, t, "in the batch than for sample " + std::to_string(b) + " alone");
      if (!what.empty()) return what;
    }
    return "";
  }

  Case c_;
  Problem p_;
  Tensors inputs_;
  Selection reference_;
  std::vector<Selection> good_;  // equal to reference outside the tie band
  std::optional<Selection> selection_;
  std::optional<Tensors> truth_;
  std::optional<test::Standard> standard_;
  std::optional<Bounds> bounds_;
  bool infinities_ = false, hidden_ = false;
};

inline Finding check(std::span<const std::uint8_t> bytes, const std::vector<std::string>& names) {
  const Case c = decode(bytes);
  try {
    return Check(c).run(names);
  } catch (const std::exception& error) {
    return {"?", std::string("throws: ") + error.what()};
  }
}

// A finding as people want it: what, where, the problem in words, and the bytes that make it.
inline std::string describe(const Finding& finding, std::span<const std::uint8_t> bytes) {
  return finding.tier + ": " + finding.what + "\n  " + words(decode(bytes)) + "\n  bytes " + hex(bytes) + "\n";
}

}  // namespace vmoba::fuzz
