// Drawing from the likeliest tokens of a row: top-k and top-p.
#pragma once
#include <vector>

#include "sampling/rows.h"

namespace shoal {

// Memory a thread uses again for each row.
struct Scratch {
  std::vector<double> sums;
  std::vector<float> maxima;
  std::vector<float> logits;
  std::vector<Candidate> candidates;
  Buckets buckets;
};

// The token at place `uniform` of the mass of the tokens kept, likeliest first. Of equal logits the
// lower id is the likelier. Kept are the top_k likeliest and whatever ties with the last of them,
// and of these the fewest likeliest whose mass reaches top_p. Tokens deeper than `depths.deepest`
// are out from the beginning.
//
// `maxima` of the row (see Passes::peak) may be null.
int32_t draw_ranked(const Passes& passes, const void* logits, int64_t vocab, const Depths& depths,
                    const float* maxima, int64_t top_k, double top_p, double uniform,
                    Scratch& scratch);

}  // namespace shoal
