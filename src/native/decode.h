// One tensor out of the arithmetic codeword.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "encode.h"

namespace wattwerk::WATTWERK_ISA {

// How many bytes beyond its end a payload may be read: a codeword ends in the middle of the last registers.
constexpr std::uint64_t kSlackBytes = 16;

// The exponential Golomb part of a magnitude that has reached `magnitude`; `limit` is that of a codebook, -1 without one.
inline std::int64_t get_remainder(DecoderState& state, Context* remainder, std::int64_t magnitude, std::int64_t limit) {
    std::uint32_t bits = 0;
    for (std::uint32_t index = 0; index < 31; ++index) {
        if (limit >= 0 && limit < magnitude + (std::int64_t{1} << bits)) break;
        if (!get_bin(state, remainder[index])) break;
        magnitude += std::int64_t{1} << bits++;
    }
    return magnitude + get_bits(state, bits);
}

class LevelDecoder {
  public:
    LevelDecoder(const TensorSpec& spec, Context* contexts)
        : spec_(spec),
          layout_{spec.unary},
          contexts_(contexts),
          largest_(spec.dependent ? 0x3fffffff : 0x7fffffff),  // the trellis doubles levels
          plain_(spec.base == nullptr && spec.history == nullptr && spec.codebook_size == 0) {}

    Neighbourhood at;

    // Decodes values that lie side by side; `position` is that of the first one.
    Fault run(DecoderState& state, std::uint64_t position, std::int32_t* out, std::uint64_t count) {
        Fault fault = Fault::none;
        while (count > 0 && fault == Fault::none) {
            // in pieces, so that a payload that is too short is noticed soon, and levels are in the cache when they become values
            const std::uint64_t now = count < kPiece ? count : kPiece;
            fault = !plain_            ? run_general(state, position, out, now)
                    : spec_.dependent ? run_plain<true>(state, out, now)
                                      : run_plain<false>(state, out, now);
            if (spec_.step != 0) dequantise(out, now);
            out += now;
            position += now;
            count -= now;
        }
        return fault;
    }

  private:
    void dequantise(std::int32_t* levels, std::uint64_t count) const {
        const float step = spec_.step;
        for (std::uint64_t index = 0; index < count; ++index) {
            const float value = static_cast<float>(levels[index]) * step;
            std::memcpy(levels + index, &value, sizeof value);
        }
    }

    static constexpr std::int64_t kNoLevel = INT64_MIN;

    // No codebook, no parent's levels. All that changes is local, so that it can stay in registers.
    template <bool kDependent>
    Fault run_plain(DecoderState& shared, std::int32_t* out, std::uint64_t count) {
        DecoderState state = shared;
        Context* const greater = contexts_ + layout_.greater();
        Context* const remainder = contexts_ + layout_.remainder();
        Context* const signs = contexts_ + layout_.sign();
        const std::uint32_t unary = layout_.unary;
        std::uint32_t trellis = at.state, side = side_of(at.previous);
        for (std::uint64_t index = 0; index < count; ++index) {
            if (!get_bin(state, contexts_[3 * trellis + side])) {
                out[index] = 0;
                side = 0;
                if (kDependent) trellis = kTransition[trellis][0];
                continue;
            }
            const std::uint32_t negative = get_even_bin(state, signs[side]);
            Context* flag = greater + negative;
            Context* const last = flag + 2 * unary;
            std::uint32_t magnitude = 1;
            while (flag != last && get_bin(state, *flag)) flag += 2, ++magnitude;
            if (flag == last) [[unlikely]] {
                DecoderState away = state;  // a copy, so that nothing else has the address of the registers
                const std::int64_t whole = get_remainder(away, remainder, magnitude, -1);
                state = away;
                if (whole > largest_ + (kDependent ? 0 : std::int64_t{negative})) return Fault::overflow;
                if (state.missing > kSlackBytes) return Fault::overrun;
                magnitude = static_cast<std::uint32_t>(whole);
            }
            const std::uint32_t odd = trellis & 1;
            const std::uint32_t value = kDependent ? 2 * magnitude - odd : magnitude;
            out[index] = static_cast<std::int32_t>((value ^ (0u - negative)) + negative);
            side = 2 - negative;
            if (kDependent) trellis = kTransition[trellis][magnitude & 1];
        }
        if (state.missing > kSlackBytes) return Fault::overrun;
        at.state = trellis;
        at.previous = side == 0 ? 0 : (side == 1 ? -1 : 1);
        shared = state;
        return Fault::none;
    }

    Fault run_general(DecoderState& state, std::uint64_t position, std::int32_t* out, std::uint64_t count) {
        for (std::uint64_t index = 0; index < count; ++index) {
            if (spec_.base != nullptr) at.base = spec_.base[position + index];
            if (spec_.history != nullptr) at.history = spec_.history[position + index] == 1;
            const std::int64_t level = general(state);
            if (level == kNoLevel) return Fault::unreachable;
            if (level > largest_ || -level > largest_ + (spec_.dependent ? 0 : 1)) return Fault::overflow;
            if (state.missing > kSlackBytes) return Fault::overrun;
            at.previous = level > 0 ? 1 : (level < 0 ? -1 : 0);
            out[index] = static_cast<std::int32_t>(level);
            if (!spec_.dependent) continue;
            out[index] = static_cast<std::int32_t>(2 * level - at.previous * static_cast<std::int32_t>(at.state & 1));
            at.state = kTransition[at.state][level & 1];
        }
        return Fault::none;
    }

    std::int64_t general(DecoderState& state) {
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
        if (more && (limit < 0 || limit > magnitude))
            magnitude = get_remainder(state, contexts_ + layout_.remainder(), magnitude, limit);
        if (limit >= 0 && magnitude > limit) return kNoLevel;  // the last bits can say more than the codebook has
        return negative ? -magnitude : magnitude;
    }

    const TensorSpec& spec_;
    const Layout layout_;
    Context* const contexts_;
    const std::int64_t largest_;
    const bool plain_;
};

// Puts the decoder where an entry point says.
inline bool seek(DecoderState& state, std::uint64_t position, std::uint32_t value) {
    const std::uint64_t next_bit = position + 9;
    if (next_bit / 8 > static_cast<std::uint64_t>(state.end - state.begin)) return false;
    state.next = state.begin + next_bit / 8;
    state.missing = 0;
    state.range = 256;
    state.value = static_cast<std::uint64_t>(value) << 55;
    state.available = 9;
    const std::uint32_t used = next_bit % 8;
    if (used != 0) {  // the rest of a byte that the register has begun
        if (state.next == state.end) return false;
        const std::uint64_t byte = *state.next++;
        state.value |= (byte & (0xffu >> used)) << (55 - (8 - used));
        state.available += static_cast<std::int32_t>(8 - used);
    }
    refill(state);
    return true;
}

// Decodes rows of which some are empty, or the blocks of one block row.
struct RowDecoder {
    const TensorSpec& spec;
    const Context* started;
    std::uint32_t context_count;
    const std::uint8_t* empty;
    std::int32_t* levels;

    // From where the scan stands to the end of its block row.
    Fault run(DecoderState& state, Scan scan, std::uint32_t trellis) const {
        Context contexts[kMaxContexts];
        std::memcpy(contexts, started, context_count * sizeof(Context));
        LevelDecoder decoder(spec, contexts);
        decoder.at.state = trellis;
        for (const std::uint64_t first = scan.row_begin; scan.row_begin == first && !scan.done(); scan.next_run()) {
            const std::uint64_t run = scan.run_width();
            std::int32_t* const out = levels + scan.position();
            if (empty != nullptr && empty[scan.row]) {
                std::memset(out, 0, run * sizeof(std::int32_t));
                // four steps of parity 0 lead back to every state
                for (std::uint64_t step = 0; spec.dependent && step < (spec.width & 3); ++step)
                    decoder.at.state = kTransition[decoder.at.state][0];
                continue;
            }
            if (const Fault fault = decoder.run(state, scan.position(), out, run); fault != Fault::none) return fault;
        }
        return Fault::none;
    }
};

// Block rows are independent of each other once their entry points are known.
struct BlockRows {
    const RowDecoder& rows;
    const Scan& scan;
    const DecoderState& start;
    const EntryPoint* entry_points;
    std::uint64_t* positions;  // one for each block row
    std::size_t count;
    DecoderState last;
    int fault;  // of any block row; written by whoever fails
    std::uint64_t bits;  // decoded by all block rows that are done

    void fail(Fault found) { __atomic_store_n(&fault, static_cast<int>(found), __ATOMIC_RELAXED); }

    static void decode_one(void* argument, std::size_t row) {
        auto& all = *static_cast<BlockRows*>(argument);
        if (__atomic_load_n(&all.fault, __ATOMIC_RELAXED) != 0) return;
        DecoderState state = all.start;
        const EntryPoint* point = row == 0 ? nullptr : all.entry_points + row - 1;
        Fault fault = Fault::none;
        if (point == nullptr)
            state.range = 256;
        else if (!seek(state, all.positions[row], point->value))
            fault = Fault::entry_point;
        Scan scan = all.scan;
        scan.seek_block_row(row);
        if (fault == Fault::none) fault = all.rows.run(state, scan, point == nullptr ? 0 : point->state & 7);
        if (fault != Fault::none) all.fail(fault);
        // entry points could send all block rows to the same bits, for hours of work on a short stream
        const std::uint64_t used = position_of(state) - all.positions[row];
        const std::uint64_t most = 16 * static_cast<std::uint64_t>(state.end - state.begin) + 1024;
        if (__atomic_add_fetch(&all.bits, used, __ATOMIC_RELAXED) > most) all.fail(Fault::entry_point);
        if (row + 1 == all.count) all.last = state;
    }
};

inline Fault decode_block_rows(DecoderState& state, const RowDecoder& rows, const Scan& scan,
                               const EntryPoint* entry_points, const Parallel& parallel) {
    const std::size_t count = scan.block_rows();
    auto* const positions = static_cast<std::uint64_t*>(std::malloc(count * sizeof(std::uint64_t)));
    if (positions == nullptr) return Fault::memory;
    positions[0] = position_of(state);
    for (std::size_t row = 1; row < count; ++row) positions[row] = positions[row - 1] + entry_points[row - 1].offset_bits;
    BlockRows all{rows, scan, state, entry_points, positions, count, state, 0, 0};
    parallel.run(parallel, count, BlockRows::decode_one, &all);
    std::free(positions);
    state = all.last;
    return static_cast<Fault>(all.fault);
}

inline Fault decode(DecoderState& state, std::int32_t* levels, const TensorSpec& given, const EntryPoint* entry_points,
                    std::size_t entry_point_count, const Parallel& parallel, ParameterChoice& sets) {
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

    const Scan scan(spec.count, spec.width, spec.scan_order);
    if (!scan.blocks() && empty.data == nullptr) return LevelDecoder(spec, contexts).run(state, 0, levels, spec.count);
    const RowDecoder rows{spec, started, layout.size(), empty.data, levels};
    if (!scan.blocks() || scan.block_rows() < 2) return rows.run(state, scan, 0);
    if (entry_point_count + 1 != scan.block_rows()) return Fault::entry_point;
    return decode_block_rows(state, rows, scan, entry_points, parallel);
}

}  // namespace wattwerk::WATTWERK_ISA
