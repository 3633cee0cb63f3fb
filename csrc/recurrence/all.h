// All recurrences for one number format.
#pragma once
#include "recurrence/convolution.h"
#include "recurrence/delta_rule.h"
#include "recurrence/recurrence.h"
#include "recurrence/state_space.h"

namespace shoal {
namespace {

template <class T>
constexpr Recurrences make_recurrences() {
  return {delta_rule<T>, state_space<T>, convolution<T>};
}

}  // namespace
}  // namespace shoal
