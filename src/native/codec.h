// The types that the Python module and the kernels share. No code stands here: kernels are compiled once for each
// instruction set, and a function that two of them share would be linked in whichever version comes first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wattwerk {

// How one tensor is coded. Levels are multiples of the step; with dependent quantisation they are those of the two
// interleaved quantisers (ISO/IEC 15938-17, dependent scalar quantisation).
struct TensorSpec {
    std::uint64_t count = 0;
    std::uint64_t width = 1;  // product of all dimensions but the first
    bool profile1 = true;
    bool dependent = true;
    std::uint32_t unary = 10;  // flags "greater than x" before the exponential Golomb part
    int scan_order = 0;        // 0: raster; 1..4: blocks of 8, 16, 32, 64
    bool row_skip = true;        // tell empty rows where there are any
    bool force_row_skip = false;  // tell for every row whether it is empty, even if none is
    bool parent = false;                   // the unit names a parent: one more flag in the payload
    const std::int8_t* history = nullptr;  // 1 where history-dependent contexts hold; null where they are off
    const std::int32_t* base = nullptr;    // co-located levels of the parent; null where there are none
    std::uint32_t codebook_size = 0;       // 0: no codebook
    std::uint32_t codebook_zero = 0;
    float step = 0;  // decoded levels become float32, times this; 0 where they are wanted as they are
};

struct EntryPoint {
    std::uint32_t value;  // register of the arithmetic decoder at the start of a block row
    std::uint32_t state;  // of the trellis
    std::uint64_t offset_bits;
};

// A growing array of bytes; the kernels may not use the standard library's templates (see above).
struct Bytes {
    std::uint8_t* data = nullptr;
    std::size_t size = 0;
    std::size_t capacity = 0;
};

// The arithmetic encoder's registers and its output.
struct EncoderState {
    Bytes out;
    std::uint64_t low = 0;
    std::uint32_t range = 510;
    std::uint32_t pending = 0;  // bits of low above its nine register bits
};

struct DecoderState {
    const std::uint8_t* begin = nullptr;
    const std::uint8_t* end = nullptr;
    const std::uint8_t* next = nullptr;
    std::uint64_t value = 0;   // the nine register bits are the uppermost ones
    std::uint64_t range = 256;
    std::int32_t available = 0;  // valid bits in value
    std::uint64_t missing = 0;   // bytes read beyond the end
};

constexpr std::size_t kParameterSets = 9;
constexpr std::uint32_t kMaxUnary = 256;
constexpr std::size_t kMaxContexts = 53 + 4 * kMaxUnary + 38;

struct ParameterChoice {
    std::uint8_t set[kMaxContexts];
    bool history;  // whether history-dependent contexts were on
};

enum class Fault : int {
    none = 0,
    overrun,      // the payload ends before its last value
    overflow,     // a level does not fit into 32 bits
    memory,       // no memory for the output
    range,        // a value is beyond what a level can hold, or not finite
    unreachable,  // a level that the trellis or the codebook does not have
    entry_point,  // an entry point outside the payload
};

struct QuantiseSpec {
    std::uint64_t count = 0;
    std::uint64_t width = 1;
    int scan_order = 0;
    float step = 1.0f;
    bool dependent = true;
    double rate_weight = 0.0;
    std::uint32_t unary = 10;
};

// How independent pieces of work are run: the kernels know no threads.
struct Parallel {
    unsigned threads;
    void (*run)(const Parallel& self, std::size_t count, void (*body)(void* argument, std::size_t index), void* argument);
};

// What is chosen for one tensor and told to the caller.
struct Chosen {
    std::uint32_t unary = 0;
    ParameterChoice sets{};
    EntryPoint* entry_points = nullptr;  // room for one a block row
    std::size_t entry_point_count = 0;
};

// One table of functions for each instruction set.
struct Kernels {
    const char* name;
    float (*largest_magnitude)(const float* values, std::uint64_t count);
    Fault (*quantise)(const float* values, std::int32_t* levels, const QuantiseSpec& spec);
    Fault (*encode_levels)(EncoderState& state, const std::int32_t* levels, const TensorSpec& spec,
                           const std::uint8_t* given_sets, std::uint64_t search_limit, const Parallel& parallel,
                           Chosen& chosen);
    Fault (*encode_values)(EncoderState& state, const float* values, const QuantiseSpec& quantising,
                           const TensorSpec& spec, std::uint32_t qp_bits, std::uint32_t qp_delta,
                           std::uint64_t search_limit, const Parallel& parallel, Chosen& chosen);
    Fault (*bypass)(EncoderState& state, std::uint32_t value, std::uint32_t bits);
    Fault (*finish)(EncoderState& state);
    std::size_t (*told_contexts)(const TensorSpec& spec, bool history, std::uint16_t* contexts);
    Fault (*decode)(DecoderState& state, std::int32_t* levels, const TensorSpec& spec, const EntryPoint* entry_points,
                    std::size_t entry_point_count, const Parallel& parallel, ParameterChoice& sets);
    std::uint32_t (*read_bypass)(DecoderState& state, std::uint32_t bits);
};

const Kernels& kernels_scalar();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#elif defined(__aarch64__)
const Kernels& kernels_neon();
#endif

}  // namespace wattwerk
