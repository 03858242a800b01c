// What callers may ask of the kernels, and the ends of a codeword: what the Python module shares with the fuzzers.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "codec.h"

namespace wattwerk {

// A bitstream that is no valid one; Python's side adds where.
struct StreamError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

using Points = std::vector<std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>>;

inline TensorSpec make_spec(std::uint64_t count, std::uint64_t width, int profile, bool dependent, std::uint32_t unary,
                            int scan_order, bool row_skip, bool parent, std::uint32_t codebook_size,
                            std::uint32_t codebook_zero) {
    if (width == 0 || count % width != 0) throw std::invalid_argument("the width does not divide the number of values");
    if (profile != 0 && profile != 1) throw std::invalid_argument("the profile is 0 or 1");
    if (unary > kMaxUnary) throw std::invalid_argument("the unary length is 256 at most");
    if (scan_order < 0 || scan_order > 4) throw std::invalid_argument("the scan order is 0 to 4");
    if (codebook_size > 0 && codebook_zero >= codebook_size) throw std::invalid_argument("the codebook's zero lies outside");
    TensorSpec spec;
    spec.count = count;
    spec.width = width;
    spec.profile1 = profile == 1;
    spec.dependent = dependent;
    spec.unary = unary;
    spec.scan_order = width == 1 || width == count ? 0 : scan_order;
    spec.row_skip = row_skip;
    spec.parent = parent;
    spec.codebook_size = codebook_size;
    spec.codebook_zero = codebook_zero;
    return spec;
}

inline std::size_t block_rows_of(const TensorSpec& spec) {
    const std::uint64_t block = std::uint64_t{4} << spec.scan_order;
    return spec.scan_order == 0 || spec.count == 0 ? 0 : (spec.count / spec.width + block - 1) / block;
}

inline void check_trellis(const std::int32_t* levels, const TensorSpec& spec) {
    if (!spec.dependent) return;
    for (std::uint64_t index = 0; index < spec.count; ++index)
        if (levels[index] < -0x7ffffffe || levels[index] > 0x7ffffffe)
            throw std::invalid_argument("a level does not fit into the trellis");
}

inline QuantiseSpec make_quantising(const TensorSpec& spec, float step, double rate_weight) {
    if (!(step > 0) || !std::isfinite(step) || !std::isfinite(1.0f / step))
        throw std::invalid_argument("the step has to be positive, and neither it nor its inverse infinite");
    if (!(rate_weight >= 0 && rate_weight <= 1e6)) throw std::invalid_argument("the weight of the rate is 0 to 1e6");
    QuantiseSpec quantising;
    quantising.count = spec.count;
    quantising.width = spec.width;
    quantising.scan_order = spec.scan_order;
    quantising.step = step;
    quantising.dependent = spec.dependent;
    quantising.rate_weight = rate_weight;
    quantising.unary = spec.unary;
    return quantising;
}

// Turns positions in the code into what a decoder starts from. None is told for the first block row.
inline void settle(const EncoderState& state, const std::vector<EntryPoint>& points, Points& out) {
    std::uint64_t before = 0;
    for (std::size_t index = 0; index < points.size(); ++index) {
        const std::uint64_t position = points[index].offset_bits;
        std::uint32_t window = 0;
        for (std::uint64_t byte = position / 8; byte < position / 8 + 3; ++byte)
            window = window << 8 | (byte < state.out.size ? state.out.data[byte] : 0u);
        // the decoder's register holds what the code has beyond the encoder's register
        const std::uint32_t value = ((window >> (15 - position % 8)) - points[index].value) & 511;
        if (index > 0) out.emplace_back(value, points[index].state, position - before);
        before = position;
    }
}

// A decoder at the start of a codeword.
inline DecoderState opened(const std::uint8_t* begin, const std::uint8_t* end) {
    DecoderState state;
    state.begin = begin;
    state.end = end;
    state.next = begin;
    state.range = 510;
    for (int byte = 0; byte < 8; ++byte) {
        state.value <<= 8;
        if (state.next < end)
            state.value |= *state.next++;
        else
            ++state.missing;
    }
    state.available = 64;
    return state;
}

// Checks the terminating bin; returns how many bytes the codeword takes.
inline std::size_t bytes_read(const DecoderState& state) {
    const std::uint64_t terminating = (state.range - 2) << 55;
    if (state.value < terminating) throw StreamError("the payload does not end where it should");
    const std::uint64_t position = 8 * (static_cast<std::uint64_t>(state.next - state.begin) + state.missing) -
                                   static_cast<std::uint64_t>(state.available);
    const std::uint64_t bytes = (position + 9 + 7) / 8;
    if (bytes > static_cast<std::uint64_t>(state.end - state.begin)) throw StreamError("the payload is cut off");
    return bytes;
}

}  // namespace wattwerk
