#include "sampling/ranked.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>

namespace shoal {
namespace {

constexpr int kFewBuckets = 12 * kStep + 1;  // enough for most rows

// A row's tokens in ranges of depth, of which only those that matter are ever sorted.
class Ranking {
 public:
  Ranking(const Passes& passes, const void* logits, int64_t vocab, const Depths& depths,
          Scratch& scratch)
      : passes_(passes), logits_(logits), vocab_(vocab), depths_(depths), scratch_(scratch) {
    scratch.candidates.resize(vocab);
  }

  // All tokens, by buckets; only those whose order is wanted are told apart.
  void rank_all(int64_t top_k, double top_p) {
    for (int used : {kFewBuckets, kMostBuckets}) {
      passes_.buckets(logits_, vocab_, depths_, used, &scratch_.buckets);
      int64_t count = 0;
      double mass = 0;
      for (int bucket = 0; bucket < used - 1; bucket++) {
        count += scratch_.buckets.count[bucket];
        mass += scratch_.buckets.mass[bucket];
      }
      const double all = mass + scratch_.buckets.mass[used - 1];
      if (top_k < vocab_ ? count >= top_k : mass >= top_p * all) break;
    }
  }

  // Those of at most a depth, as a single range.
  void rank_to(float depth) {
    scratch_.buckets.used = 1;
    held_ = passes_.collect(logits_, vocab_, depths_, 0,
                            std::max(std::nextafter(depth, INFINITY), FLT_MIN),
                            scratch_.candidates.data());
    sort();
    range_ = 0;
    scratch_.buckets.count[0] = held_;
    scratch_.buckets.mass[0] = 0;
    for (int64_t i = 0; i < held_; i++) scratch_.buckets.mass[0] += scratch_.candidates[i].weight;
  }

  // Keep the k likeliest and whatever ties with the last of them.
  void keep_top(int64_t k) {
    mass_ = 0;
    int64_t before = 0;
    for (int range = 0; range < scratch_.buckets.used; range++) {
      if (before + scratch_.buckets.count[range] < k) {
        before += scratch_.buckets.count[range];
        mass_ += scratch_.buckets.mass[range];
        continue;
      }
      const Candidate* found = members(range);
      last_range_ = range;
      last_ = k - before - 1;
      while (last_ + 1 < held_ && found[last_ + 1].depth == found[last_].depth) last_++;
      for (int64_t i = 0; i <= last_; i++) mass_ += found[i].weight;
      return;
    }
    keep_all();  // there are no more than k
  }

  void keep_all() {
    last_range_ = scratch_.buckets.used;
    mass_ = 0;
    for (int range = 0; range < scratch_.buckets.used; range++) mass_ += scratch_.buckets.mass[range];
  }

  // Keep the fewest likeliest whose mass reaches this share of what is kept.
  void keep_share(double share) {
    walk(share * mass_);
    last_range_ = range_;
    last_ = reached_;
    mass_ = running_;
  }

  int32_t draw(double uniform) {
    walk(uniform * mass_);
    return scratch_.candidates[reached_].id;
  }

 private:
  // Goes through the ranking until the mass reaches `target` or what is kept ends; there is a
  // token there: range_, reached_ and the mass running_ up to it and with it.
  void walk(double target) {
    running_ = 0;
    int at = 0;
    int last = std::min(last_range_, scratch_.buckets.used - 1);
    while (last > 0 && scratch_.buckets.count[last] == 0) last--;
    while (at < last && running_ + scratch_.buckets.mass[at] < target)
      running_ += scratch_.buckets.mass[at++];
    const Candidate* found = members(at);
    int64_t end = at == last_range_ ? last_ : held_ - 1;
    for (reached_ = 0; reached_ < end; reached_++) {
      if (running_ + found[reached_].weight >= target) break;
      running_ += found[reached_].weight;
    }
    running_ += found[reached_].weight;
  }

  // The tokens of a range in order, likeliest first; held_ is their number.
  const Candidate* members(int range) {
    if (range != range_) {
      range_ = range;
      float low = float(range) / kStep;
      float high = range == scratch_.buckets.used - 1 ? INFINITY : float(range + 1) / kStep;
      held_ = passes_.collect(logits_, vocab_, depths_, low, high, scratch_.candidates.data());
      sort();
    }
    return scratch_.candidates.data();
  }

  void sort() {
    std::sort(scratch_.candidates.begin(), scratch_.candidates.begin() + held_,
              [](const Candidate& a, const Candidate& b) {
                return a.depth < b.depth || (a.depth == b.depth && a.id < b.id);
              });
  }

  const Passes& passes_;
  const void* logits_;
  int64_t vocab_;
  Depths depths_;
  Scratch& scratch_;
  int range_ = -1;         // the range whose tokens the scratch holds, sorted
  int64_t held_ = 0;       // how many they are
  int last_range_ = 0;     // the last token kept is number last_ of this range
  int64_t last_ = 0;
  double mass_ = 0;        // of the tokens kept
  int64_t reached_ = 0;
  double running_ = 0;
};

}  // namespace

int32_t draw_ranked(const Passes& passes, const void* logits, int64_t vocab, const Depths& depths,
                    const float* maxima, int64_t top_k, double top_p, double uniform,
                    Scratch& scratch) {
  Ranking ranking(passes, logits, vocab, depths, scratch);
  if (maxima && top_k <= maxima_count(vocab)) {
    // The k-th largest of the sets' maxima: at least k tokens are as likely.
    std::vector<float>& copy = scratch.maxima;
    auto kth = copy.begin() + (top_k - 1);
    std::nth_element(copy.begin(), kth, copy.end(), std::greater<float>());
    ranking.rank_to((depths.peak - *kth) * depths.scale);
  } else {
    ranking.rank_all(top_k, top_p);
  }
  if (top_k < vocab)
    ranking.keep_top(top_k);
  else
    ranking.keep_all();
  if (top_p < 1) ranking.keep_share(top_p);
  return ranking.draw(uniform);
}

}  // namespace shoal
