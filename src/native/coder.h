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

struct Context {
    std::int32_t a;
    std::int32_t b;
    const std::int16_t* steps_a;  // index: -16..15
    const std::int16_t* steps_b;
};

inline constexpr std::int16_t kNoSteps[160] = {};

inline void start(Context& context, int set) {
    const ParameterSet& chosen = kSets[set];
    context.a = chosen.start_a;
    context.b = chosen.start_sum - 16 * chosen.start_a;
    context.steps_a = kSteps.steps[chosen.shift_a] + 16;
    context.steps_b = kSteps.steps[chosen.shift_b] + 16;
}

inline void start_bypass(Context& context) {
    context = {0, (kBypassCode / 2 - 32) << 7, kNoSteps + 80, kNoSteps + 80};
}

// The row of the tables: S >> 7, from -32 up.
WATTWERK_INLINE std::int32_t row_of(const Context& context) { return ((context.a << 4) + context.b) >> 7; }

WATTWERK_INLINE void adapt(Context& context, std::int32_t bin) {
    const std::int32_t flip = bin - 1;  // 0 or all ones
    const std::int32_t a = (context.a ^ flip) - flip, b = (context.b ^ flip) - flip;
    const std::int32_t step_a = context.steps_a[a >> 3], step_b = context.steps_b[b >> 7];
    context.a += (step_a ^ flip) - flip;
    context.b += (step_b ^ flip) - flip;
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

// One step of the coder for one operation.
//
// An operation is 32 bits: bin (1), context (11), number of bits without a model (4) and these bits (16). Bits without
// a model run through the same arithmetic as modelled ones, with the bypass context, so that the loop has no branch
// but the rare flush.
using Operation = std::uint32_t;

WATTWERK_INLINE Operation modelled(std::uint32_t context, std::uint32_t bin) { return bin | context << 1; }

WATTWERK_INLINE Operation unmodelled(std::uint32_t bypass_context, std::uint32_t value, std::uint32_t bits) {
    return bypass_context << 1 | bits << 12 | value << 16;
}

// Codes operations; false where the output cannot grow.
inline bool code(EncoderState& state, Context* contexts, const Operation* operations, std::size_t count) {
    if (!reserve(state.out, 4 * count + 64)) return false;
    std::uint64_t low = state.low;
    std::uint32_t range = state.range - 256, pending = state.pending;
    // the first bits of all start with a range of 510; from then on every range is a byte above 256
    for (std::size_t index = 0; index < count; ++index) {
        const Operation operation = operations[index];
        const std::uint32_t bin = operation & 1;
        Context& context = contexts[(operation >> 1) & 2047];
        const std::uint32_t code = static_cast<std::uint32_t>(row_of(context) + 32) * 2 + bin;
        adapt(context, static_cast<std::int32_t>(bin));
        const std::uint32_t lps = kCoding.least[code][range >> 5], mps = range + 256 - lps;
        const std::uint32_t mask = static_cast<std::uint32_t>(kCoding.least_mask[code]);
        const std::uint32_t kept = mps ^ ((mps ^ lps) & mask);
        const std::uint32_t shift = static_cast<std::uint32_t>(__builtin_clz(kept)) - 23 + ((operation >> 12) & 15);
        range = kCoding.next[code][range];
        low = (low + (mps & mask)) << shift;
        low += static_cast<std::uint64_t>(range + 256) * (operation >> 16);
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
    state.range = range + 256;
    state.pending = pending;
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

inline void begin_decoder(DecoderState& state) {
    state.next = state.begin;
    state.value = 0;
    state.available = 0;
    state.missing = 0;
    refill(state);
    refill(state);
    state.range = std::uint64_t{510} << 55;
}

// Position of the register: bits read before its first one.
inline std::uint64_t position_of(const DecoderState& state) {
    return 8 * (static_cast<std::uint64_t>(state.next - state.begin) + state.missing) -
           static_cast<std::uint64_t>(state.available);
}

WATTWERK_INLINE std::int32_t get_bin(DecoderState& state, Context& context) {
    const std::int32_t row = row_of(context);
    const std::uint64_t lps = kDecoding.least[row + 32][(state.range >> 60) & 7];
    const std::uint64_t mps = state.range - lps;
    const bool is_least = state.value >= mps;
    const std::int32_t bin = static_cast<std::int32_t>(row >= 0) ^ static_cast<std::int32_t>(is_least);
    state.value -= is_least ? mps : 0;
    const std::uint64_t kept = is_least ? lps : mps;
    const int shift = __builtin_clzll(kept);
    state.range = kept << shift;
    state.value <<= shift;
    state.available -= shift;
    adapt(context, bin);
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
