// What both fuzzers share: bytes to the arguments of a tensor, and the kernels that have to agree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "arguments.h"
#include "codec.h"

namespace fuzz {

using namespace wattwerk;

constexpr std::uint64_t kMostValues = 20000;  // beyond two pieces of the quantiser
constexpr std::uint64_t kLongestSide = 600;

#define REQUIRE(condition)                                                                        \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);          \
            std::abort();                                                                         \
        }                                                                                         \
    } while (0)

// Kernels that this machine can run.
inline const std::vector<const Kernels*>& kernels() {
    static const std::vector<const Kernels*> known = [] {
        std::vector<const Kernels*> all{&kernels_scalar()};
#if defined(WATTWERK_SCALAR_ONLY)
#elif defined(__x86_64__)
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) all.push_back(&kernels_avx2());
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) all.push_back(&kernels_avx512());
#elif defined(__aarch64__)
        all.push_back(&kernels_neon());
#endif
        return all;
    }();
    return known;
}

// A digest of all that came out, where a replay asks for it: 64-bit FNV-1a.
struct Digest {
    bool wanted = false;
    std::uint64_t value = 0xcbf29ce484222325u;

    template <typename T>
    void add(const T* data, std::size_t count) {
        const auto* bytes = reinterpret_cast<const unsigned char*>(data);
        for (std::size_t index = 0; wanted && index < count * sizeof(T); ++index) value = (value ^ bytes[index]) * 0x100000001b3u;
    }
};
inline Digest digest;

// The fuzzer's bytes from the front; zeros once there are no more.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

    std::uint8_t byte() {
        if (left_ == 0) return 0;
        --left_;
        return *data_++;
    }
    std::uint32_t word(int bytes) {
        std::uint32_t value = 0;
        for (int index = 0; index < bytes; ++index) value |= std::uint32_t{byte()} << (8 * index);
        return value;
    }
    std::size_t left() const { return left_; }
    const std::uint8_t* rest() const { return data_; }

  private:
    const std::uint8_t* data_;
    std::size_t left_;
};

// Arguments of one tensor with the arrays that they point to.
struct Tensor {
    TensorSpec spec;
    std::vector<std::int32_t> base;
    std::vector<std::int8_t> history;
    std::vector<EntryPoint> points;
};

// Fields in the order of the bytes: flags, unary length, scan order, rows, width, codebook.
inline void read_spec(Input& in, Tensor& tensor, std::uint64_t most_values) {
    const std::uint8_t flags = in.byte();
    const std::uint32_t unary = in.byte();
    const int scan_order = in.byte() % 5;
    std::uint64_t rows = in.word(2) % (kLongestSide + 1);
    const std::uint64_t width = 1 + in.word(2) % kLongestSide;
    const std::uint32_t codebook_size = in.byte() + 1u, codebook_zero = in.byte() % codebook_size;
    rows = std::min(rows, most_values / width);
    tensor.spec = make_spec(rows * width, width, flags & 1, flags & 2, unary, scan_order, flags & 64, flags & 4,
                            flags & 32 ? codebook_size : 0, flags & 32 ? codebook_zero : 0);
    tensor.spec.force_row_skip = flags & 128;
    if (flags & 8) tensor.history.resize(tensor.spec.count);
    if (flags & 16) tensor.base.resize(tensor.spec.count);
}

// The parent's levels and the history, a byte and a bit a value.
inline void read_sides(Input& in, Tensor& tensor) {
    const bool has_base = !tensor.base.empty(), has_history = !tensor.history.empty();
    for (std::int32_t& level : tensor.base) {
        const auto value = static_cast<std::int8_t>(in.byte());
        level = value == -128 ? INT32_MIN : value == 127 ? INT32_MAX : value;
    }
    std::uint32_t bits = 0;
    for (std::size_t index = 0; index < tensor.history.size(); ++index) {
        if (index % 8 == 0) bits = in.byte();
        tensor.history[index] = static_cast<std::int8_t>(bits >> (index % 8) & 1);
    }
    tensor.spec.base = has_base ? tensor.base.data() : nullptr;
    tensor.spec.history = has_history ? tensor.history.data() : nullptr;
}

// One piece after the other, so that what comes out is the same each time.
inline const Parallel kSerial{1, [](const Parallel&, std::size_t count, void (*body)(void*, std::size_t), void* argument) {
                                  for (std::size_t index = 0; index < count; ++index) body(argument, index);
                              }};

// As if there were three threads: block rows are then coded apart and joined.
inline const Parallel kSplit{3, kSerial.run};

// An array of exactly this size, so that the sanitiser sees a step beyond it.
template <typename T>
std::vector<T> exactly(std::size_t count, T value = {}) {
    std::vector<T> array;
    array.reserve(std::max<std::size_t>(count, 1));  // not null
    array.resize(count, value);
    return array;
}

}  // namespace fuzz
