// Scratch memory of the attention kernel.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>

namespace shoal {
namespace {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Memory that starts on a cache line; zeroed.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) : data_(static_cast<T*>(::operator new(n * sizeof(T), kAlign))) {
    memset(static_cast<void*>(data_), 0, n * sizeof(T));
  }
  ~Buffer() { ::operator delete(data_, kAlign); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  T* data_;
};

}  // namespace
}  // namespace shoal
