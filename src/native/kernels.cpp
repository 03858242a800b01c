// Compiled once for each instruction set; WATTWERK_ISA names it.
#include <cstdint>

#include "codec.h"
#include "decode.h"

namespace wattwerk {
namespace WATTWERK_ISA {

static Fault quantise(const float* values, std::int32_t* levels, const QuantiseSpec& spec) {
    RateTable rate;
    if (spec.rate_weight > 0) {
        if (const Fault fault = learn_rates(values, spec, rate); fault != Fault::none) return fault;
    }
    Quantiser quantiser(values, spec, &rate);
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

// How many of the first values decide how a tensor is coded: what was asked for, more of large tensors.
static std::uint64_t sample_of(std::uint64_t count, std::uint64_t asked) {
    if (asked == 0) return 0;
    const std::uint64_t share = count / 12;
    return asked > share ? (asked < count ? asked : count) : share;
}

static Fault encode_levels(EncoderState& state, const std::int32_t* levels, const TensorSpec& spec,
                           const std::uint8_t* given_sets, std::uint64_t search_limit, const Parallel& parallel,
                           Chosen& chosen) {
    const std::uint64_t limit = sample_of(spec.count, search_limit);
    TensorSpec used = spec;
    LevelSource source(levels, spec.count, spec.width, spec.scan_order);
    if (used.unary == 0) {
        Histogram histogram;
        histogram.add(levels, limit, spec.dependent);
        std::int32_t piece[kPiece];
        if (const Fault fault = choose_unary(source, spec, histogram, piece, used.unary); fault != Fault::none) return fault;
    }
    EmptyRows empty;
    if (may_skip_rows(used)) {
        std::int32_t piece[kPiece];
        LevelSource all(levels, spec.count, spec.width, spec.scan_order);
        if (const Fault fault = empty.find(all, used, piece); fault != Fault::none) return fault;
    }
    return encode(state, used, source, empty.flags, given_sets, limit, parallel, chosen);
}

// Whether a row can be all zeros: one value of two steps or more rules it out, unless small size counts.
static bool may_have_empty_rows(const float* values, const TensorSpec& spec, const QuantiseSpec& quantising) {
    if (quantising.rate_weight > 0) return true;
    const float limit = spec.dependent ? 2 * quantising.step : quantising.step;
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
                           std::uint64_t search_limit, const Parallel& parallel, Chosen& chosen) {
    const std::uint32_t delta = qp_delta & (qp_bits >= 32 ? 0xffffffffu : (1u << qp_bits) - 1);
    if (!put_long(state, delta, qp_bits)) return Fault::memory;
    RateTable rate;
    if (quantising.rate_weight > 0) {
        if (const Fault fault = learn_rates(values, quantising, rate); fault != Fault::none) return fault;
    }
    TensorSpec used = spec;
    SampledSource source(values, quantising, &rate, sample_of(spec.count, search_limit));
    if (source.fault != Fault::none) return source.fault;
    if (used.unary == 0) {
        Histogram histogram;
        histogram.add(source.sample(), source.sample_count(), spec.dependent);
        std::int32_t piece[kPiece];
        if (const Fault fault = choose_unary(source, spec, histogram, piece, used.unary); fault != Fault::none) return fault;
    }
    EmptyRows empty;
    if (may_skip_rows(used) && may_have_empty_rows(values, used, quantising)) {
        std::int32_t piece[kPiece];
        Quantiser all(values, quantising, &rate);
        if (const Fault fault = empty.find(all, used, piece); fault != Fault::none) return fault;
    }
    return encode(state, used, source, empty.flags, nullptr, source.sample_count(), parallel, chosen);
}

static Fault decode_tensor(DecoderState& state, std::int32_t* levels, const TensorSpec& spec,
                           const EntryPoint* entry_points, std::size_t entry_point_count, const Parallel& parallel,
                           ParameterChoice& sets) {
    return decode(state, levels, spec, entry_points, entry_point_count, parallel, sets);
}

static std::size_t told_contexts(const TensorSpec& spec, bool history, std::uint16_t* contexts) {
    TensorSpec used = spec;
    if (!used.profile1) used.base = nullptr;
    std::size_t count = 0;
    each_told_context(used, history, [&](std::uint32_t context) { contexts[count++] = static_cast<std::uint16_t>(context); });
    return count;
}

static Fault bypass(EncoderState& state, std::uint32_t value, std::uint32_t bits) {
    return put_long(state, value, bits) ? Fault::none : Fault::memory;
}
static Fault finish(EncoderState& state) { return finish_encoder(state) ? Fault::none : Fault::memory; }
static std::uint32_t read_bypass(DecoderState& state, std::uint32_t bits) { return get_bits(state, bits); }

}  // namespace WATTWERK_ISA

#define WATTWERK_JOIN_(a, b) a##b
#define WATTWERK_JOIN(a, b) WATTWERK_JOIN_(a, b)
#define WATTWERK_TEXT_(a) #a
#define WATTWERK_TEXT(a) WATTWERK_TEXT_(a)

const Kernels& WATTWERK_JOIN(kernels_, WATTWERK_ISA)() {
    static constexpr Kernels kernels{
        WATTWERK_TEXT(WATTWERK_ISA),  WATTWERK_ISA::largest_magnitude, WATTWERK_ISA::quantise,
        WATTWERK_ISA::encode_levels,  WATTWERK_ISA::encode_values,     WATTWERK_ISA::bypass,
        WATTWERK_ISA::finish,         WATTWERK_ISA::told_contexts,     WATTWERK_ISA::decode_tensor,
        WATTWERK_ISA::read_bypass};
    return kernels;
}

}  // namespace wattwerk
