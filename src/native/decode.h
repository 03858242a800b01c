// One tensor out of the arithmetic codeword.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "encode.h"

namespace wattwerk::WATTWERK_ISA {

// How many bytes beyond its end a payload may be read: a codeword ends in the middle of the last registers.
constexpr std::uint64_t kSlackBytes = 16;

class LevelDecoder {
  public:
    LevelDecoder(DecoderState& state, const TensorSpec& spec, Context* contexts)
        : state_(state), spec_(spec), layout_{spec.unary}, contexts_(contexts) {}

    Neighbourhood at;
    Fault fault = Fault::none;

    // The level of the plain syntax: no codebook, no parent's level.
    WATTWERK_INLINE std::int32_t plain(DecoderState& state) {
        const std::uint32_t side = side_of(at.previous);
        if (!get_bin(state, contexts_[layout_.significance(at.state, side)])) return 0;
        const bool negative = get_bin(state, contexts_[layout_.sign() + side]);
        Context* greater = contexts_ + layout_.greater() + (negative ? 1 : 0);
        std::int64_t magnitude = 1;
        std::uint32_t index = 0;
        for (; index < layout_.unary; ++index, greater += 2) {
            if (!get_bin(state, *greater)) return static_cast<std::int32_t>(negative ? -magnitude : magnitude);
            ++magnitude;
        }
        return finished(negative, remainder(state, magnitude, -1));
    }

    std::int32_t general(DecoderState& state) {
        if (silent(spec_)) return 0;
        if (!get_bin(state, contexts_[significance_context(layout_, at)])) return 0;
        bool negative = spec_.codebook_zero != 0;
        if (!one_sided(spec_) || !spec_.profile1) negative = get_bin(state, contexts_[sign_context(layout_, at)]);
        const std::int64_t limit = limit_of(spec_, negative);
        std::int64_t magnitude = 1;
        bool more = limit < 0 || limit > 1;
        for (std::uint32_t index = 0; more && index < layout_.unary && (limit < 0 || limit > magnitude); ++index) {
            more = get_bin(state, contexts_[greater_context(layout_, at.base, negative, index)]);
            magnitude += more;
        }
        if (more && (limit < 0 || limit > magnitude)) magnitude = remainder(state, magnitude, limit);
        return finished(negative, magnitude);
    }

  private:
    std::int64_t remainder(DecoderState& state, std::int64_t magnitude, std::int64_t limit) {
        std::uint32_t bits = 0;
        for (std::uint32_t index = 0; index < 31; ++index) {
            if (limit >= 0 && limit < magnitude + (std::int64_t{1} << bits)) break;
            if (!get_bin(state, contexts_[layout_.remainder() + index])) break;
            magnitude += std::int64_t{1} << bits++;
        }
        return magnitude + get_bits(state, bits);
    }

    std::int32_t finished(bool negative, std::int64_t magnitude) {
        // the trellis doubles levels
        if (magnitude > (spec_.dependent ? 0x3fffffff : std::int64_t{0x7fffffff} + negative)) {
            fault = Fault::overflow;
            return 0;
        }
        return static_cast<std::int32_t>(negative ? -magnitude : magnitude);
    }

    DecoderState& state_;
    const TensorSpec& spec_;
    const Layout layout_;
    Context* const contexts_;
};

WATTWERK_INLINE std::int32_t advance_trellis(Neighbourhood& at, std::int32_t level) {
    const std::int32_t sign = (level > 0) - (level < 0);
    const std::int32_t value = 2 * level - sign * static_cast<std::int32_t>(at.state & 1);
    at.state = kTransition[at.state][level & 1];
    return value;
}

template <bool kPlain, bool kDependent>
Fault decode_run(DecoderState& shared, LevelDecoder& decoder, const TensorSpec& spec, std::uint64_t position,
                 std::int32_t* out, std::uint64_t count) {
    DecoderState state = shared;  // registers, not memory
    for (std::uint64_t index = 0; index < count; ++index) {
        if (!kPlain) {
            if (spec.base != nullptr) decoder.at.base = spec.base[position + index];
            if (spec.history != nullptr) decoder.at.history = spec.history[position + index] == 1;
        }
        const std::int32_t level = kPlain ? decoder.plain(state) : decoder.general(state);
        decoder.at.previous = level;
        out[index] = kDependent ? advance_trellis(decoder.at, level) : level;
        if (state.missing > kSlackBytes) return Fault::overrun;
    }
    shared = state;
    return decoder.fault;
}

inline Fault decode_some(DecoderState& state, LevelDecoder& decoder, const TensorSpec& spec, bool plain,
                         std::uint64_t position, std::int32_t* out, std::uint64_t count) {
    if (plain && spec.dependent) return decode_run<true, true>(state, decoder, spec, position, out, count);
    if (plain) return decode_run<true, false>(state, decoder, spec, position, out, count);
    if (spec.dependent) return decode_run<false, true>(state, decoder, spec, position, out, count);
    return decode_run<false, false>(state, decoder, spec, position, out, count);
}

// Puts the decoder where an entry point says.
inline bool seek(DecoderState& state, std::uint64_t position, std::uint32_t value) {
    const std::uint64_t next_bit = position + 9;
    if (next_bit / 8 > static_cast<std::uint64_t>(state.end - state.begin)) return false;
    state.next = state.begin + next_bit / 8;
    state.missing = 0;
    state.range = std::uint64_t{256} << 55;
    state.value = static_cast<std::uint64_t>(value) << 55;
    state.available = 9;
    const std::uint32_t used = next_bit % 8;
    if (used != 0) {  // the rest of a byte that the register has begun
        const std::uint64_t byte = state.next < state.end ? *state.next : 0;
        state.value |= (byte & (0xffu >> used)) << (55 - (8 - used));
        state.available += static_cast<std::int32_t>(8 - used);
        ++state.next;
        if (state.next > state.end) return false;
    }
    refill(state);
    return true;
}

inline Fault decode(DecoderState& state, std::int32_t* levels, const TensorSpec& given, const EntryPoint* entry_points,
                    std::size_t entry_point_count, ParameterChoice& sets) {
    TensorSpec spec = given;
    if (!spec.profile1) spec.base = nullptr;
    const Layout layout{spec.unary};
    Context contexts[kMaxContexts], started[kMaxContexts];
    for (std::uint32_t context = 0; context < layout.size(); ++context) start(contexts[context], 0);
    start_bypass(contexts[layout.bypass()]);
    struct Flags {
        std::uint8_t* data = nullptr;
        ~Flags() { std::free(data); }
    } empty;
    bool history = false;
    if (has_row_flags(spec)) {
        if (spec.parent) history = get_bits(state, 1) != 0;
        if (get_bits(state, 1) != 0) {
            const std::uint64_t rows = spec.count / spec.width;
            empty.data = static_cast<std::uint8_t*>(std::malloc(rows));
            if (empty.data == nullptr) return Fault::memory;
            for (std::uint64_t row = 0; row < rows; ++row) {
                empty.data[row] = static_cast<std::uint8_t>(get_bin(state, contexts[layout.row_skip()]));
                if (state.missing > kSlackBytes) return Fault::overrun;
            }
        }
    }
    if (history && spec.history == nullptr) return Fault::unreachable;
    if (!history) spec.history = nullptr;
    std::memset(&sets, 0, sizeof sets);
    sets.history = history;
    bool known = true;
    each_told_context(spec, history, [&](std::uint32_t context) {
        const bool other = get_bin(state, contexts[layout.parameter_set()]);
        const std::uint32_t set = other ? 1 + get_bits(state, 3) : 0;
        known = known && set < kParameterSets;
        sets.set[context] = static_cast<std::uint8_t>(set);
    });
    if (!known || state.missing > kSlackBytes) return Fault::overrun;
    each_told_context(spec, history, [&](std::uint32_t context) { start(contexts[context], sets.set[context]); });
    std::memcpy(started, contexts, layout.size() * sizeof(Context));

    const bool plain = spec.base == nullptr && spec.history == nullptr && spec.codebook_size == 0;
    LevelDecoder decoder(state, spec, contexts);
    Scan scan(spec.count, spec.width, spec.scan_order);
    const bool block_rows = scan.blocks() && scan.block_rows() > 1;
    if (!scan.blocks() && empty.data == nullptr)
        return decode_some(state, decoder, spec, plain, 0, levels, spec.count);
    if (block_rows && entry_point_count + 1 != scan.block_rows()) return Fault::entry_point;
    std::uint64_t position = position_of(state);
    std::size_t row_index = 0;
    for (; !scan.done(); scan.next_run()) {
        if (block_rows && scan.at_block_row_start()) {
            if (row_index == 0) {
                state.range = std::uint64_t{256} << 55;
            } else {
                position += entry_points[row_index - 1].offset_bits;
                decoder.at.state = entry_points[row_index - 1].state & 7;
                if (!seek(state, position, entry_points[row_index - 1].value)) return Fault::entry_point;
            }
            ++row_index;
            decoder.at.previous = 0;
            std::memcpy(contexts, started, layout.size() * sizeof(Context));
        }
        const std::uint64_t run = scan.run_width();
        if (empty.data != nullptr && empty.data[scan.row]) {
            std::memset(levels + scan.position(), 0, run * sizeof(std::int32_t));
            for (std::uint64_t step = 0; spec.dependent && step < (spec.width & 3); ++step)
                decoder.at.state = kTransition[decoder.at.state][0];
            continue;
        }
        const Fault fault = decode_some(state, decoder, spec, plain, scan.position(), levels + scan.position(), run);
        if (fault != Fault::none) return fault;
    }
    return Fault::none;
}

}  // namespace wattwerk::WATTWERK_ISA
