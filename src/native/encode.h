// One tensor into the arithmetic codeword: flags, parameter sets, levels.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "block_rows.h"
#include "search.h"
#include "unary.h"

namespace wattwerk::WATTWERK_ISA {

// Calls visit(context) for every context whose parameter set is told, in the order of the syntax.
template <typename Visit>
void each_told_context(const TensorSpec& spec, bool history, Visit visit) {
    const Layout layout{spec.unary};
    const auto span = [&visit](std::uint32_t first, std::uint32_t end) {
        for (std::uint32_t context = first; context < end; ++context) visit(context);
    };
    const bool modelled = spec.codebook_size != 1;
    const bool parent = spec.base != nullptr;
    if (modelled) {
        span(0, spec.dependent ? 24 : 3);
        if (parent) span(24, spec.dependent ? 40 : 26);
        if (history) span(40, spec.dependent ? 48 : 41);
        if (!one_sided(spec)) span(48, parent ? 53 : 51);
    }
    const std::int64_t positive = std::int64_t{spec.codebook_size} - 1 - spec.codebook_zero;
    const std::int64_t largest = spec.codebook_size == 0
                                     ? -1
                                     : (positive > spec.codebook_zero ? positive : std::int64_t{spec.codebook_zero});
    const std::uint32_t greater = layout.greater(), flags = 2 * spec.unary;
    for (std::uint32_t index = 0; index < flags; ++index)
        if (largest < 0 || index < 2 * largest) visit(greater + index);
    if (parent)
        for (std::uint32_t index = 0; index < flags; ++index)
            if (largest < 0 || index < 2 * (largest - 1)) visit(greater + flags + index);
    std::int64_t reached = std::int64_t{spec.unary} - 1;
    for (std::uint32_t index = 0; index < 31; ++index) {
        reached += std::int64_t{1} << index;
        if (largest < 0 || reached < largest) visit(layout.remainder() + index);
    }
}

struct SearchEvents {
    SetSearch& search;
    bool started = false;
    bool code(const Operation* operations, std::size_t count) {
        search.observe(operations, count);
        if (!started) search.end_start();
        started = true;
        return true;
    }
    void block_row(std::uint32_t) { search.reset(); }
};

struct CodingEvents {
    EncoderState& state;
    Context* contexts;
    const Context* started;
    std::uint32_t context_count;
    Chosen& chosen;

    bool code(const Operation* operations, std::size_t count) {
        return WATTWERK_ISA::code(state, contexts, operations, count);
    }
    void block_row(std::uint32_t trellis_state) {
        state.range = 256;
        std::memcpy(contexts, started, context_count * sizeof(Context));
        if (chosen.entry_points != nullptr)
            chosen.entry_points[chosen.entry_point_count++] = {static_cast<std::uint32_t>(state.low & 511), trellis_state,
                                                                8 * std::uint64_t{state.out.size} + state.pending};
    }
};

// Codes the flags before the levels; `flags` is null where no row is skipped.
inline Fault code_head(EncoderState& state, Context* contexts, const TensorSpec& spec, const std::uint8_t* empty_rows) {
    const Layout layout{spec.unary};
    if (!reserve(state.out, 64)) return Fault::memory;
    if (!has_row_flags(spec)) return Fault::none;
    if (spec.parent) put_bits(state, spec.history != nullptr, 1);
    put_bits(state, empty_rows != nullptr, 1);
    if (empty_rows == nullptr) return Fault::none;
    for (std::uint64_t row = 0; row < spec.count / spec.width; ++row) {
        const Operation operation = modelled(layout.row_skip(), empty_rows[row]);
        if (!code(state, contexts, &operation, 1)) return Fault::memory;
    }
    return Fault::none;
}

inline Fault code_sets(EncoderState& state, Context* contexts, const TensorSpec& spec, const ParameterChoice& sets) {
    const Layout layout{spec.unary};
    Fault fault = Fault::none;
    each_told_context(spec, spec.history != nullptr && has_row_flags(spec) && spec.parent, [&](std::uint32_t context) {
        const std::uint32_t set = sets.set[context];
        const Operation operations[2] = {modelled(layout.parameter_set(), set != 0),
                                         unmodelled(layout.bypass(), set == 0 ? 0 : set - 1, 3)};
        if (!code(state, contexts, operations, set == 0 ? 1 : 2)) fault = Fault::memory;
    });
    return fault;
}

// Chooses the sets by what they would have cost over the first values.
template <typename Source>
Fault search_sets(Source& source, const TensorSpec& spec, const std::uint8_t* empty_rows, std::uint64_t limit,
                  Binariser& binariser, std::int32_t* piece, ParameterChoice& sets) {
    const Layout layout{spec.unary};
    SetSearch search(layout.size(), static_cast<double>(spec.count) / static_cast<double>(limit));
    const Fault fault = walk(source, spec, empty_rows, limit, binariser, piece, SearchEvents{search});
    each_told_context(spec, true, [&](std::uint32_t context) { sets.set[context] = search.best(context); });
    source.rewind();
    binariser.restart();
    return fault;
}

struct TrialEvents {
    SetSearch& search;
    double cost = 0;  // of bits without a model, and of time

    bool code(const Operation* operations, std::size_t count) {
        std::uint64_t bits = 0;
        for (std::size_t index = 0; index < count; ++index) bits += operations[index].bits;
        cost += static_cast<double>(bits) + kBinWeight / 2 * static_cast<double>(count);
        search.observe(operations, count);
        return true;
    }
    void block_row(std::uint32_t) { search.reset(); }
};

// Chooses the number of unary flags. Entropies do not know what contexts gain by following the weights, so that large
// tensors try on their first levels whether a number that saves time costs size.
template <typename Source>
Fault choose_unary(Source& source, const TensorSpec& given, const Histogram& histogram, std::int32_t* piece,
                   std::uint32_t& chosen) {
    constexpr std::uint64_t kLarge = std::uint64_t{1} << 19, kTrial = 8192;
    const std::uint32_t candidates[2] = {choose_unary(histogram, kBinWeight), choose_unary(histogram, 0)};
    chosen = candidates[0];
    if (candidates[0] == candidates[1] || given.count < kLarge) return Fault::none;
    double costs[2];
    for (int index = 0; index < 2; ++index) {
        TensorSpec spec = given;
        spec.unary = candidates[index];
        const Layout layout{spec.unary};
        SetSearch search(layout.size(), 1);
        Binariser binariser(spec);
        TrialEvents events{search};
        if (const Fault fault = walk(source, spec, nullptr, kTrial, binariser, piece, events); fault != Fault::none) return fault;
        costs[index] = events.cost;
        each_told_context(spec, true, [&](std::uint32_t context) { costs[index] += search.bits(context); });
        source.rewind();
    }
    chosen = candidates[costs[1] < costs[0] ? 1 : 0];
    return Fault::none;
}

// Skipped parts of rows in blocks advance the trellis by a whole row: a path that the quantiser does not take.
inline bool may_skip_rows(const TensorSpec& spec) {
    return has_row_flags(spec) &&
           (spec.force_row_skip || (spec.row_skip && !(spec.dependent && spec.scan_order > 0)));
}

// Codes a tensor. `empty_rows` are null where none is told; `limit` is at most the source's sample.
template <typename Source>
Fault encode(EncoderState& state, const TensorSpec& given, Source& source, const std::uint8_t* empty_rows,
             const std::uint8_t* given_sets, std::uint64_t limit, const Parallel& parallel, Chosen& chosen) {
    std::int32_t piece[kPiece];
    TensorSpec spec = given;
    if (!spec.profile1) spec.base = nullptr;
    if (!has_row_flags(spec) || !spec.parent) spec.history = nullptr;
    std::memset(&chosen.sets, 0, sizeof chosen.sets);
    chosen.unary = spec.unary;
    const bool history = spec.history != nullptr;
    Binariser binariser(spec);
    if (given_sets != nullptr) {
        each_told_context(spec, history, [&](std::uint32_t context) { chosen.sets.set[context] = *given_sets++; });
    } else if (limit > 0 && !silent(spec)) {
        const Fault fault = search_sets(source, spec, empty_rows, limit, binariser, piece, chosen.sets);
        if (fault != Fault::none) return fault;
    }
    const Layout layout{spec.unary};
    Context contexts[kMaxContexts], started[kMaxContexts];
    for (std::uint32_t context = 0; context < layout.size(); ++context) start(contexts[context], 0);
    start_bypass(contexts[layout.bypass()]);
    if (const Fault fault = code_head(state, contexts, spec, empty_rows); fault != Fault::none) return fault;
    if (const Fault fault = code_sets(state, contexts, spec, chosen.sets); fault != Fault::none) return fault;
    each_told_context(spec, history, [&](std::uint32_t context) { start(contexts[context], chosen.sets.set[context]); });
    std::memcpy(started, contexts, layout.size() * sizeof(Context));
    if (can_split(spec, empty_rows, parallel, chosen))
        return BlockRowCoder(spec, started, layout.size(), empty_rows, parallel).run(state, source, chosen);
    return walk(source, spec, empty_rows, spec.count, binariser, piece,
                CodingEvents{state, contexts, started, layout.size(), chosen});
}

}  // namespace wattwerk::WATTWERK_ISA
