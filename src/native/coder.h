// The arithmetic coder: contexts, the encoder's and the decoder's registers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "codec.h"
#include "tables.h"

namespace wattwerk::WATTWERK_ISA {

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
struct alignas(8) Context {
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

// Moves 16 or 32 finished bits of low to the output; there has to be room.
template <std::uint32_t kBits>
WATTWERK_INLINE void flush(EncoderState& state) {
    const std::uint32_t kept = state.pending + 9 - kBits;
    const std::uint64_t word = state.low >> kept;
    if (word >> kBits) carry(state.out);
    const std::uint32_t value = __builtin_bswap32(static_cast<std::uint32_t>(word << (32 - kBits)));
    std::memcpy(state.out.data + state.out.size, &value, kBits / 8);
    state.out.size += kBits / 8;
    state.low &= (std::uint64_t{1} << kept) - 1;
    state.pending -= kBits;
}

// Codes bits without a model: 16 of them at most, and there has to be room.
inline void put_bits(EncoderState& state, std::uint32_t value, std::uint32_t bits) {
    state.low = (state.low << bits) + static_cast<std::uint64_t>(state.range) * value;
    state.pending += bits;
    if (state.pending >= 32) flush<32>(state);
}

inline bool put_long(EncoderState& state, std::uint32_t value, std::uint32_t bits) {
    if (!reserve(state.out, 16)) return false;
    while (bits > 0) {
        const std::uint32_t now = bits > 8 ? 8 : bits;
        bits -= now;
        put_bits(state, (value >> bits) & ((1u << now) - 1), now);
    }
    return true;
}

// What the coder does next: a bin in a context, then bits without a model.
//
// Bits without a model run through the same arithmetic as modelled ones, in a context that never moves, so that the loop
// has no branch but the rare flush.
struct alignas(4) Operation {
    std::uint16_t where;  // four times the context, plus the bin
    std::uint8_t bits;    // number of bits without a model, eight at most
    std::uint8_t value;   // these bits
};

WATTWERK_INLINE Operation modelled(std::uint32_t context, std::uint32_t bin) {
    return {static_cast<std::uint16_t>(4 * context + bin), 0, 0};
}

WATTWERK_INLINE Operation unmodelled(std::uint32_t bypass_context, std::uint32_t value, std::uint32_t bits) {
    return {static_cast<std::uint16_t>(4 * bypass_context + 1), static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(value)};
}

constexpr std::size_t kCodedTogether = 1024;

// What is known of operations once their contexts have been followed: of each the code, and the range before it and
// after it, less 256. There is room to read beyond the last one.
struct Trace {
    std::uint8_t codes[kCodedTogether + 64];
    std::uint8_t ranges[kCodedTogether + 64];
};

// Moves the contexts and the range along. The range is the only value that has to be handed from bin to bin, by one
// load; the contexts' loads fill the time until it has come.
inline void follow(EncoderState& state, Context* contexts, const Operation* operations, std::size_t count, Trace& trace) {
    auto* const base = reinterpret_cast<unsigned char*>(contexts);
    std::size_t range = state.range - 256;  // a renormalised range is a byte above 256
    trace.ranges[0] = static_cast<std::uint8_t>(range);
#pragma GCC unroll 2
    for (std::size_t index = 0; index < count; ++index) {
        const std::size_t where = operations[index].where, bin = where & 1;
        Context& context = *reinterpret_cast<Context*>(base + 8 * (where - bin));
        // both counters from and to memory as one word: a context that comes again at once waits less
        std::uint32_t counters;
        std::memcpy(&counters, &context, sizeof counters);
        const std::size_t quick = counters & 0xffff, slow = counters >> 16;
        const std::size_t code = 2 * ((slow + 8 * quick) >> 7) + bin;
        counters = context.quick_next[quick + bin] | std::uint32_t{context.slow_next[2 * slow + bin]} << 16;
        std::memcpy(&context, &counters, sizeof counters);
        range = kCoding.next[code][range];
        trace.codes[index] = static_cast<std::uint8_t>(code);
        trace.ranges[index + 1] = static_cast<std::uint8_t>(range);
    }
    state.range = static_cast<std::uint32_t>(range) + 256;
}

// Adds to low what operations add to it: each one moves low up and adds a number.
inline void emit_each(EncoderState& state, const Operation* operations, const Trace& trace, std::size_t first,
                      std::size_t count) {
    std::uint64_t low = state.low;
    std::uint32_t pending = state.pending;
#pragma GCC unroll 2
    for (std::size_t index = first; index < count; ++index) {
        const std::uint32_t code = trace.codes[index], range = trace.ranges[index] + 256u;
        const std::uint32_t least = kCoding.least[code >> 1][(range >> 5) & 7], most = range - least;
        const std::uint32_t mask = 0u - ((code ^ (code >> 6)) & 1);
        const std::uint32_t kept = mask ? least : most;
        const std::uint32_t shift = static_cast<std::uint32_t>(__builtin_clz(kept)) - 23 + operations[index].bits;
        low = ((low + (most & mask)) << shift) + (trace.ranges[index + 1] + std::uint64_t{256}) * operations[index].value;
        pending += shift;
        if (pending >= 32) [[unlikely]] {
            state.low = low;
            state.pending = pending;
            flush<32>(state);
            low = state.low;
            pending = state.pending;
        }
    }
    state.low = low;
    state.pending = pending;
}

#if defined(__AVX2__)
// Sums of four operations each, to be added to low one after the other.
struct Fours {
    struct Sum {
        std::uint64_t added;
        std::uint64_t shift;  // how far low moves before
    };
    alignas(64) Sum at[kCodedTogether / 4 + 4];
};

inline void add_fours(EncoderState& state, const Fours& fours, std::size_t count) {
    std::uint64_t low = state.low;
    std::uint32_t pending = state.pending;
    for (std::size_t index = 0; index < count; ++index) {
        const auto shift = static_cast<std::uint32_t>(fours.at[index].shift);
        if (shift > 22) [[unlikely]] {  // up to 32: there would be no room above the register
            state.low = low;
            state.pending = pending;
            if (pending >= 16) flush<16>(state);
            low = state.low;
            pending = state.pending;
        }
        low = (low << shift) + fours.at[index].added;
        pending += shift;
        if (pending >= 32) [[unlikely]] {
            state.low = low;
            state.pending = pending;
            flush<32>(state);
            low = state.low;
            pending = state.pending;
        }
    }
    state.low = low;
    state.pending = pending;
}
#endif

#if defined(__AVX512BW__) && defined(__AVX512CD__)
// Each operation moves low up and adds a number; so do four of them together, and what they do is found for sixteen at a time.
inline void emit(EncoderState& state, const Operation* operations, const Trace& trace, std::size_t count) {
    alignas(64) static constexpr auto probabilities = [] {
        struct {
            std::uint32_t at[32];
        } table{};
        for (int index = 0; index < 32; ++index) table.at[index] = static_cast<std::uint32_t>(kProbabilities[index]);
        return table;
    }();
    const __m512i probable = _mm512_load_si512(probabilities.at), improbable = _mm512_load_si512(probabilities.at + 16);
    const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(32), most_distant = _mm512_set1_epi32(31);
    const __m512i least_range = _mm512_set1_epi32(256), byte = _mm512_set1_epi32(255), nine = _mm512_set1_epi32(9);
    const auto bytes_at = [](const std::uint8_t* from) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    };
    Fours fours;
    for (std::size_t index = 0; index < count; index += 16) {
        const auto present = static_cast<__mmask16>(count - index < 16 ? (1u << (count - index)) - 1 : 0xffffu);
        const __m512i operation = _mm512_maskz_loadu_epi32(present, operations + index);
        const __m512i code = bytes_at(trace.codes + index), low_range = bytes_at(trace.ranges + index);
        const __m512i row = _mm512_srli_epi32(code, 1);
        const __m512i distance = _mm512_abs_epi32(_mm512_sub_epi32(row, half));
        const __mmask16 with_model = _mm512_cmple_epi32_mask(distance, half);
        const __m512i probability = _mm512_maskz_permutex2var_epi32(
            with_model, probable, _mm512_min_epi32(distance, most_distant), improbable);
        const __m512i quarter = _mm512_add_epi32(_mm512_srli_epi32(low_range, 5), nine);
        const __m512i least = _mm512_srli_epi32(_mm512_mullo_epi16(probability, quarter), 3);
        const __m512i most = _mm512_sub_epi32(_mm512_add_epi32(low_range, least_range), least);
        const __mmask16 is_least = _mm512_test_epi32_mask(_mm512_xor_si512(code, _mm512_srli_epi32(code, 6)), one);
        const __m512i kept = _mm512_mask_mov_epi32(most, is_least, least);
        const __m512i bits = _mm512_and_si512(_mm512_srli_epi32(operation, 16), byte);
        const __m512i shift = _mm512_maskz_add_epi32(
            present, _mm512_sub_epi32(_mm512_lzcnt_epi32(kept), _mm512_set1_epi32(23)), bits);
        const __m512i next_range = _mm512_add_epi32(bytes_at(trace.ranges + index + 1), least_range);
        const __m512i added = _mm512_add_epi32(_mm512_maskz_sllv_epi32(is_least, most, shift),
                                               _mm512_mullo_epi32(next_range, _mm512_srli_epi32(operation, 24)));
        const __m512i sum = _mm512_maskz_mov_epi32(present, added);
        // pairs, then pairs of pairs: one adds 17 bits at most and moves low by eight, so that 41 bits are enough
        const __m512i second_shift = _mm512_srli_epi64(shift, 32);
        const __m512i pair = _mm512_add_epi64(_mm512_sllv_epi64(_mm512_maskz_mov_epi32(0x5555, sum), second_shift),
                                              _mm512_srli_epi64(sum, 32));
        const __m512i pair_shift = _mm512_add_epi64(_mm512_maskz_mov_epi32(0x5555, shift), second_shift);
        const __m512i later_shift = _mm512_unpackhi_epi64(pair_shift, pair_shift);
        const __m512i four = _mm512_add_epi64(_mm512_sllv_epi64(pair, later_shift), _mm512_unpackhi_epi64(pair, pair));
        const __m512i four_shift = _mm512_add_epi64(pair_shift, later_shift);
        _mm512_store_si512(fours.at + index / 4, _mm512_unpacklo_epi64(four, four_shift));
    }
    add_fours(state, fours, (count + 3) / 4);
}
#elif defined(__AVX2__)
// As with AVX-512, eight at a time; what is left over is added one by one.
inline void emit(EncoderState& state, const Operation* operations, const Trace& trace, std::size_t count) {
    alignas(16) static constexpr auto probabilities = [] {
        struct {
            std::uint8_t at[32];
        } table{};
        for (int index = 0; index < 32; ++index) table.at[index] = static_cast<std::uint8_t>(kProbabilities[index]);
        return table;
    }();
    const auto* const from = reinterpret_cast<const __m128i*>(probabilities.at);
    const __m256i probable = _mm256_broadcastsi128_si256(_mm_load_si128(from));
    const __m256i improbable = _mm256_broadcastsi128_si256(_mm_load_si128(from + 1));
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(32), most_distant = _mm256_set1_epi32(31);
    const __m256i least_range = _mm256_set1_epi32(256), byte = _mm256_set1_epi32(255), nine = _mm256_set1_epi32(9);
    const __m256i first = _mm256_set1_epi64x(0xffffffff);
    const auto bytes_at = [](const std::uint8_t* bytes) {
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    };
    Fours fours;
    const std::size_t whole = count & ~std::size_t{7};
    for (std::size_t index = 0; index < whole; index += 8) {
        const __m256i operation = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(operations + index));
        const __m256i code = bytes_at(trace.codes + index), low_range = bytes_at(trace.ranges + index);
        const __m256i distance = _mm256_abs_epi32(_mm256_sub_epi32(_mm256_srli_epi32(code, 1), half));
        const __m256i without_model = _mm256_cmpgt_epi32(distance, half);
        const __m256i entry = _mm256_min_epi32(distance, most_distant);
        const __m256i found = _mm256_blendv_epi8(_mm256_shuffle_epi8(probable, entry), _mm256_shuffle_epi8(improbable, entry),
                                                 _mm256_slli_epi32(entry, 3));
        const __m256i probability = _mm256_andnot_si256(without_model, _mm256_and_si256(found, byte));
        const __m256i quarter = _mm256_add_epi32(_mm256_srli_epi32(low_range, 5), nine);
        const __m256i least = _mm256_srli_epi32(_mm256_mullo_epi16(probability, quarter), 3);
        const __m256i most = _mm256_sub_epi32(_mm256_add_epi32(low_range, least_range), least);
        const __m256i is_least = _mm256_cmpeq_epi32(
            _mm256_and_si256(_mm256_xor_si256(code, _mm256_srli_epi32(code, 6)), one), one);
        const __m256i kept = _mm256_blendv_epi8(most, least, is_least);
        // the exponent of a float is where its highest bit is
        const __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(kept)), 23);
        const __m256i bits = _mm256_and_si256(_mm256_srli_epi32(operation, 16), byte);
        const __m256i shift = _mm256_add_epi32(_mm256_sub_epi32(_mm256_set1_epi32(127 + 8), exponent), bits);
        const __m256i next_range = _mm256_add_epi32(bytes_at(trace.ranges + index + 1), least_range);
        const __m256i sum = _mm256_add_epi32(_mm256_sllv_epi32(_mm256_and_si256(most, is_least), shift),
                                             _mm256_madd_epi16(next_range, _mm256_srli_epi32(operation, 24)));
        const __m256i second_shift = _mm256_srli_epi64(shift, 32);
        const __m256i pair = _mm256_add_epi64(_mm256_sllv_epi64(_mm256_and_si256(sum, first), second_shift),
                                              _mm256_srli_epi64(sum, 32));
        const __m256i pair_shift = _mm256_add_epi64(_mm256_and_si256(shift, first), second_shift);
        const __m256i later_shift = _mm256_unpackhi_epi64(pair_shift, pair_shift);
        const __m256i four = _mm256_add_epi64(_mm256_sllv_epi64(pair, later_shift), _mm256_unpackhi_epi64(pair, pair));
        const __m256i four_shift = _mm256_add_epi64(pair_shift, later_shift);
        _mm256_store_si256(reinterpret_cast<__m256i*>(fours.at + index / 4), _mm256_unpacklo_epi64(four, four_shift));
    }
    add_fours(state, fours, whole / 4);
    emit_each(state, operations, trace, whole, count);
}
#else
inline void emit(EncoderState& state, const Operation* operations, const Trace& trace, std::size_t count) {
    emit_each(state, operations, trace, 0, count);
}
#endif

// Codes operations; false where the output cannot grow.
inline bool code(EncoderState& state, Context* contexts, const Operation* operations, std::size_t count) {
    if (!reserve(state.out, 4 * count + 64)) return false;
    Trace trace;
    while (count > 0) {
        const std::size_t now = count < kCodedTogether ? count : kCodedTogether;
        follow(state, contexts, operations, now, trace);
        emit(state, operations, trace, now);
        operations += now;
        count -= now;
    }
    return true;
}

// Ends the codeword: the terminating bin, the register's bits but the lowest eight, a one, zeros up to the next byte.
inline bool finish_encoder(EncoderState& state) {
    if (!reserve(state.out, 32)) return false;
    state.low = (state.low + state.range - 2) << 7;
    state.range = 256;
    state.pending += 7;
    if (state.pending >= 32) flush<32>(state);
    const std::uint32_t bits = state.pending + 1;
    std::uint64_t tail = state.low >> 8;
    if (tail >> bits) {
        carry(state.out);
        tail &= (std::uint64_t{1} << bits) - 1;
    }
    tail = (tail << 1 | 1) << (63 - bits);
    for (std::uint32_t written = 0; written < bits + 1; written += 8, tail <<= 8)
        state.out.data[state.out.size++] = static_cast<std::uint8_t>(tail >> 56);
    return true;
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

// Takes from the range what a bin leaves of it, and moves on.
WATTWERK_INLINE void take(DecoderState& state, std::uint64_t kept, std::uint64_t passed) {
    const int shift = __builtin_clzll(kept) - 55;
    state.range = kept << shift;
    state.value = (state.value - (passed << 55)) << shift;
    state.available -= shift;
    if (state.available < 32) [[unlikely]] refill(state);
}

// The range of the less probable bin. All eight of a row are loaded at once, before the range is known.
WATTWERK_INLINE std::uint64_t least_range(std::uint32_t row, std::uint64_t range) {
    std::uint64_t all;
    std::memcpy(&all, kCoding.least[row], sizeof all);
    return (all >> ((range >> 2) & 56)) & 255;
}

// A bin that is often foretold: one branch, after which the range depends on nothing but the bin.
WATTWERK_INLINE std::uint32_t get_bin(DecoderState& state, Context& context) {
    const std::uint32_t quick = context.quick, slow = context.slow, row = row_of(quick, slow);
    const std::uint64_t least = least_range(row, state.range), most = state.range - least;
    const std::uint32_t usual = row >> 5;
    if ((state.value >> 55) >= most) {
        adapt(context, quick, slow, usual ^ 1);
        take(state, least, most);
        return usual ^ 1;
    }
    adapt(context, quick, slow, usual);
    take(state, most, 0);
    return usual;
}

// A bin that nobody can foretell: no branch.
WATTWERK_INLINE std::uint32_t get_even_bin(DecoderState& state, Context& context) {
    const std::uint32_t quick = context.quick, slow = context.slow, row = row_of(quick, slow);
    const std::uint64_t least = least_range(row, state.range), most = state.range - least;
    std::uint64_t is_least = (state.value >> 55) >= most;
    __asm__("" : "+r"(is_least));  // or the compiler finds out that it is a condition, and branches
    const std::uint32_t bin = (row >> 5) ^ static_cast<std::uint32_t>(is_least);
    adapt(context, quick, slow, bin);
    take(state, most ^ ((most ^ least) & (0 - is_least)), most & (0 - is_least));
    return bin;
}

// Bits without a model: how often the range's share for each of them fits into the value.
inline std::uint32_t get_bits(DecoderState& state, std::uint32_t bits) {
    std::uint32_t value = 0;
    while (bits > 0) {
        const std::uint32_t now = bits > 16 ? 16 : bits;
        bits -= now;
        const auto share = static_cast<std::uint32_t>(state.value >> (55 - now)) / static_cast<std::uint32_t>(state.range);
        state.value = (state.value - share * (state.range << 55 >> now)) << now;
        value = value << now | share;
        state.available -= static_cast<std::int32_t>(now);
        if (state.available < 32) refill(state);
    }
    return value;
}

}  // namespace wattwerk::WATTWERK_ISA
