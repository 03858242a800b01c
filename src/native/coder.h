// The arithmetic coder: contexts, the encoder's and the decoder's registers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "codec.h"
#include "tables.h"

namespace wattwerk::WATTWERK_ISA {

#define WATTWERK_INLINE inline __attribute__((always_inline))

// Where the contexts of each purpose begin, for a given number of unary flags.
struct Layout {
    std::uint32_t unary;

    std::uint32_t significance(std::uint32_t state, std::uint32_t neighbour) const { return 3 * state + neighbour; }
    std::uint32_t sign() const { return 48; }
    std::uint32_t greater() const { return 53; }
    std::uint32_t remainder() const { return 53 + 4 * unary; }
    std::uint32_t parameter_set() const { return remainder() + 34; }
    std::uint32_t row_skip() const { return remainder() + 36; }
    std::uint32_t bypass() const { return remainder() + 37; }  // stands for bits without a model
    std::uint32_t size() const { return remainder() + 38; }
};

// A context of the arithmetic coder. Its counters are held as indices of the tables of their successors.
struct Context {
    std::uint16_t quick;  // 2 (a + 128)
    std::uint16_t slow;   // b + 2048
    std::uint32_t unused;
    const std::uint16_t* quick_next;
    const std::uint16_t* slow_next;
    std::uint64_t padding;  // 32 bytes: an operation's first half is an offset in eighths of it
};

inline void start(Context& context, int set) {
    const ParameterSet& chosen = kSets[set];
    context.quick = static_cast<std::uint16_t>(2 * (chosen.start_a + 128));
    context.slow = static_cast<std::uint16_t>(chosen.start_sum - 16 * chosen.start_a + 2048);
    context.quick_next = kQuick[chosen.shift_a - 4].next[0];
    context.slow_next = chosen.shift_b == 8 ? kSlowest.next[0] : kSlow[chosen.shift_b - 4].next[0];
}

inline void start_bypass(Context& context) {
    context.quick = 0;
    context.slow = kBypassCode / 2 << 7;
    context.quick_next = kStillQuick.next[0];
    context.slow_next = kStillSlow.next[0];
}

// The row of the tables: S >> 7, plus 32.
WATTWERK_INLINE std::uint32_t row_of(std::uint32_t quick, std::uint32_t slow) { return (slow + 8 * quick) >> 7; }

WATTWERK_INLINE void adapt(Context& context, std::uint32_t quick, std::uint32_t slow, std::uint32_t bin) {
    context.quick = context.quick_next[quick + bin];
    context.slow = context.slow_next[2 * slow + bin];
}

// ---- bytes ---------------------------------------------------------------------------------------------------------

inline bool reserve(Bytes& bytes, std::size_t extra) {
    if (bytes.size + extra <= bytes.capacity) return true;
    std::size_t capacity = bytes.capacity + bytes.capacity / 2 + extra + 256;
    auto* data = static_cast<std::uint8_t*>(std::realloc(bytes.data, capacity));
    if (data == nullptr) return false;
    bytes.data = data;
    bytes.capacity = capacity;
    return true;
}

// ---- encoder -------------------------------------------------------------------------------------------------------

// Adds one to the number that the written bytes are.
inline void carry(Bytes& out) {
    std::size_t index = out.size;
    while (index > 0 && ++out.data[--index] == 0) {
    }
}

// Moves 32 finished bits of low to the output; there has to be room.
WATTWERK_INLINE void flush_word(EncoderState& state) {
    const std::uint32_t kept = state.pending + 9 - 32;
    const std::uint64_t word = state.low >> kept;
    if (word >> 32) carry(state.out);
    const std::uint32_t value = __builtin_bswap32(static_cast<std::uint32_t>(word));
    std::memcpy(state.out.data + state.out.size, &value, 4);
    state.out.size += 4;
    state.low &= (std::uint64_t{1} << kept) - 1;
    state.pending -= 32;
}

// Codes bits without a model: 16 of them at most, and there has to be room.
inline void put_bits(EncoderState& state, std::uint32_t value, std::uint32_t bits) {
    state.low = (state.low << bits) + static_cast<std::uint64_t>(state.range) * value;
    state.pending += bits;
    if (state.pending >= 32) flush_word(state);
}

inline void put_long(EncoderState& state, std::uint32_t value, std::uint32_t bits) {
    if (!reserve(state.out, 16)) return;
    while (bits > 0) {
        const std::uint32_t now = bits > 8 ? 8 : bits;
        bits -= now;
        put_bits(state, (value >> bits) & ((1u << now) - 1), now);
    }
}

// What the coder does next: a bin in a context, then bits without a model.
//
// Bits without a model run through the same arithmetic as modelled ones, in a context that never moves, so that the loop
// has no branch but the rare flush.
struct Operation {
    std::uint16_t where;  // four times the context, plus the bin
    std::uint8_t bits;    // number of bits without a model, eight at most
    std::uint8_t value;   // these bits
};

WATTWERK_INLINE Operation modelled(std::uint32_t context, std::uint32_t bin) {
    return {static_cast<std::uint16_t>(4 * context + bin), 0, 0};
}

WATTWERK_INLINE Operation unmodelled(std::uint32_t bypass_context, std::uint32_t value, std::uint32_t bits) {
    return {static_cast<std::uint16_t>(4 * bypass_context), static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(value)};
}

constexpr std::size_t kCodedTogether = 1024;

// Moves the contexts along and notes where the tables have what each operation needs.
inline void follow_contexts(Context* contexts, const Operation* operations, std::size_t count, std::uint16_t* rows) {
    auto* const base = reinterpret_cast<unsigned char*>(contexts);
#pragma GCC unroll 2
    for (std::size_t index = 0; index < count; ++index) {
        const std::size_t where = operations[index].where, bin = where & 1;
        Context& context = *reinterpret_cast<Context*>(base + 8 * (where - bin));
        const std::size_t quick = context.quick, slow = context.slow;
        rows[index] = kCoding.offsets[2 * ((slow + 8 * quick) >> 7) + bin];
        context.quick = context.quick_next[quick + bin];
        context.slow = context.slow_next[2 * slow + bin];
    }
}

// Runs the arithmetic coder; there has to be room for the output.
inline void run_coder(EncoderState& state, const Operation* operations, const std::uint16_t* rows, std::size_t count) {
    const auto* const tables = reinterpret_cast<const unsigned char*>(kCoding.rows);
    std::uint64_t low = state.low, range = state.range - 256;  // a renormalised range is a byte above 256
    std::uint32_t pending = state.pending;
#pragma GCC unroll 2
    for (std::size_t index = 0; index < count; ++index) {
        const CodingRow& row = *reinterpret_cast<const CodingRow*>(tables + rows[index]);
        const std::uint32_t least = row.least[range >> 5], mask = row.mask;
        const std::uint32_t most = static_cast<std::uint32_t>(range) + 256 - least;
        const std::uint32_t kept = mask ? least : most;
        const std::uint32_t shift = 8 - (31 - static_cast<std::uint32_t>(__builtin_clz(kept))) + operations[index].bits;
        range = row.next[range];
        low = ((low + (most & mask)) << shift) + (range + 256) * operations[index].value;
        pending += shift;
        if (pending >= 32) [[unlikely]] {
            state.low = low;
            state.pending = pending;
            flush_word(state);
            low = state.low;
            pending = state.pending;
        }
    }
    state.low = low;
    state.range = static_cast<std::uint32_t>(range) + 256;
    state.pending = pending;
}

// Codes operations; false where the output cannot grow.
inline bool code(EncoderState& state, Context* contexts, const Operation* operations, std::size_t count) {
    if (!reserve(state.out, 4 * count + 64)) return false;
    std::uint16_t rows[kCodedTogether];
    while (count > 0) {
        const std::size_t now = count < kCodedTogether ? count : kCodedTogether;
        follow_contexts(contexts, operations, now, rows);
        run_coder(state, operations, rows, now);
        operations += now;
        count -= now;
    }
    return true;
}

// Ends the codeword: the terminating bin, the register's bits but the lowest eight, a one, zeros up to the next byte.
inline void finish_encoder(EncoderState& state) {
    if (!reserve(state.out, 32)) return;
    state.low = (state.low + state.range - 2) << 7;
    state.range = 256;
    state.pending += 7;
    if (state.pending >= 32) flush_word(state);
    const std::uint32_t bits = state.pending + 1;
    std::uint64_t tail = state.low >> 8;
    if (tail >> bits) {
        carry(state.out);
        tail &= (std::uint64_t{1} << bits) - 1;
    }
    tail = (tail << 1 | 1) << (63 - bits);
    for (std::uint32_t written = 0; written < bits + 1; written += 8, tail <<= 8)
        state.out.data[state.out.size++] = static_cast<std::uint8_t>(tail >> 56);
}

// ---- decoder -------------------------------------------------------------------------------------------------------

WATTWERK_INLINE void refill(DecoderState& state) {
    std::uint32_t word;
    if (state.end - state.next >= 4) [[likely]] {
        std::memcpy(&word, state.next, 4);
        word = __builtin_bswap32(word);
        state.next += 4;
    } else {
        word = 0;
        for (int index = 0; index < 4; ++index) {
            word <<= 8;
            if (state.next < state.end)
                word |= *state.next++;
            else
                ++state.missing;
        }
    }
    state.value |= static_cast<std::uint64_t>(word) << (32 - state.available);
    state.available += 32;
}

// Position of the register: bits read before its first one.
inline std::uint64_t position_of(const DecoderState& state) {
    return 8 * (static_cast<std::uint64_t>(state.next - state.begin) + state.missing) -
           static_cast<std::uint64_t>(state.available);
}

WATTWERK_INLINE std::uint32_t get_bin(DecoderState& state, Context& context) {
    const std::uint32_t quick = context.quick, slow = context.slow, row = row_of(quick, slow);
    const std::uint64_t lps = kDecoding.least[row][(state.range >> 60) & 7];
    const std::uint64_t mps = state.range - lps;
    const bool is_least = state.value >= mps;
    const std::uint32_t bin = (row >> 5) ^ static_cast<std::uint32_t>(is_least);
    state.value -= is_least ? mps : 0;
    const std::uint64_t kept = is_least ? lps : mps;
    const int shift = __builtin_clzll(kept);
    state.range = kept << shift;
    state.value <<= shift;
    state.available -= shift;
    adapt(context, quick, slow, bin);
    if (state.available < 32) [[unlikely]] refill(state);
    return bin;
}

// Bits without a model: how often the range's share for each of them fits into the value.
inline std::uint32_t get_bits(DecoderState& state, std::uint32_t bits) {
    std::uint32_t value = 0;
    while (bits > 0) {
        const std::uint32_t now = bits > 16 ? 16 : bits;
        bits -= now;
        const auto share = static_cast<std::uint32_t>(state.value >> (55 - now)) / static_cast<std::uint32_t>(state.range >> 55);
        state.value = (state.value - share * (state.range >> now)) << now;
        value = value << now | share;
        state.available -= static_cast<std::int32_t>(now);
        if (state.available < 32) refill(state);
    }
    return value;
}

}  // namespace wattwerk::WATTWERK_ISA
