// Compiled once for each instruction set; WATTWERK_ISA names it.
#include <cstdint>

#include "codec.h"
#include "decode.h"

namespace wattwerk {
namespace WATTWERK_ISA {

static Fault quantise(const float* values, std::int32_t* levels, const QuantiseSpec& spec) {
    Quantiser quantiser(values, spec);
    Gather<std::int32_t> scatter{{spec.count, spec.width, spec.scan_order}};
    std::int32_t piece[kPiece];
    std::uint64_t done = 0;
    while (const std::uint64_t n = quantiser.next(piece)) {
        if (scatter.scan.blocks())
            scatter.put(piece, levels, n);
        else
            std::memcpy(levels + done, piece, n * sizeof(std::int32_t));
        done += n;
    }
    return quantiser.fault;
}

static Fault encode_levels(EncoderState& state, const std::int32_t* levels, const TensorSpec& spec,
                           const std::uint8_t* given_sets, std::uint64_t search_limit, Chosen& chosen) {
    TensorSpec used = spec;
    if (used.unary == 0) {
        Histogram histogram;
        histogram.add(levels, spec.count < search_limit ? spec.count : search_limit, spec.dependent);
        used.unary = choose_unary(histogram);
    }
    const auto make = [&] { return LevelSource(levels, spec.count, spec.width, spec.scan_order); };
    return encode(state, used, make, given_sets, search_limit, true, chosen);
}

// Whether a row can be all zeros: one value of two steps or more rules it out.
static bool may_have_empty_rows(const float* values, const TensorSpec& spec, float step) {
    const float limit = spec.dependent ? 2 * step : step;
    const std::uint64_t rows = spec.count / spec.width;
    for (std::uint64_t row = 0; row < rows; ++row) {
        const float* at = values + row * spec.width;
        std::uint64_t column = 0;
        while (column < spec.width && !(std::fabs(at[column]) >= limit)) ++column;
        if (column == spec.width) return true;
    }
    return false;
}

static Fault encode_values(EncoderState& state, const float* values, const QuantiseSpec& quantising,
                           const TensorSpec& spec, std::uint32_t qp_bits, std::uint32_t qp_delta,
                           std::uint64_t search_limit, Chosen& chosen) {
    put_long(state, qp_delta & (qp_bits >= 32 ? 0xffffffffu : (1u << qp_bits) - 1), qp_bits);
    TensorSpec used = spec;
    const auto make = [&] { return Quantiser(values, quantising); };
    if (used.unary == 0) {
        Histogram histogram;
        Quantiser quantiser(values, quantising);
        std::int32_t piece[kPiece];
        std::uint64_t seen = 0;
        while (seen < search_limit || seen == 0) {
            const std::uint64_t n = quantiser.next(piece);
            if (n == 0) break;
            histogram.add(piece, n, spec.dependent);
            seen += n;
        }
        if (quantiser.fault != Fault::none) return quantiser.fault;
        used.unary = choose_unary(histogram);
    }
    const bool empty_rows = has_row_flags(spec) && spec.row_skip && may_have_empty_rows(values, spec, quantising.step);
    return encode(state, used, make, nullptr, search_limit, empty_rows, chosen);
}

static Fault decode_tensor(DecoderState& state, std::int32_t* levels, const TensorSpec& spec,
                           const EntryPoint* entry_points, std::size_t entry_point_count, ParameterChoice& sets) {
    return decode(state, levels, spec, entry_points, entry_point_count, sets);
}

static std::size_t told_contexts(const TensorSpec& spec, bool history, std::uint16_t* contexts) {
    TensorSpec used = spec;
    if (!used.profile1) used.base = nullptr;
    std::size_t count = 0;
    each_told_context(used, history, [&](std::uint32_t context) { contexts[count++] = static_cast<std::uint16_t>(context); });
    return count;
}

static void bypass(EncoderState& state, std::uint32_t value, std::uint32_t bits) { put_long(state, value, bits); }
static void finish(EncoderState& state) { finish_encoder(state); }
static std::uint32_t read_bypass(DecoderState& state, std::uint32_t bits) { return get_bits(state, bits); }

}  // namespace WATTWERK_ISA

#define WATTWERK_JOIN_(a, b) a##b
#define WATTWERK_JOIN(a, b) WATTWERK_JOIN_(a, b)
#define WATTWERK_TEXT_(a) #a
#define WATTWERK_TEXT(a) WATTWERK_TEXT_(a)

const Kernels& WATTWERK_JOIN(kernels_, WATTWERK_ISA)() {
    static constexpr Kernels kernels{WATTWERK_TEXT(WATTWERK_ISA), WATTWERK_ISA::quantise,     WATTWERK_ISA::encode_levels,
                                     WATTWERK_ISA::encode_values, WATTWERK_ISA::bypass,       WATTWERK_ISA::finish,
                                     WATTWERK_ISA::told_contexts, WATTWERK_ISA::decode_tensor, WATTWERK_ISA::read_bypass};
    return kernels;
}

}  // namespace wattwerk
