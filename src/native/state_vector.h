// A state of the trellis held in a vector register: there, the way from state to state is one look-up of a single cycle
// instead of a load from memory.
#pragma once

#include <cstdint>

#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(WATTWERK_NEON)
#include <arm_neon.h>
#endif

#include "tables.h"

namespace wattwerk::WATTWERK_ISA {

// Only the low four bits of a state lead on; a table has 16 entries, the second eight as the first.
#if defined(__SSSE3__)
using StateVector = __m128i;

WATTWERK_INLINE StateVector state_vector(std::uint32_t state) { return _mm_cvtsi32_si128(static_cast<int>(state)); }

// `table` is aligned to 16 bytes, and its entries are below 128.
WATTWERK_INLINE StateVector look_up(const std::uint8_t* table, StateVector state) {
    return _mm_shuffle_epi8(_mm_load_si128(reinterpret_cast<const __m128i*>(table)), state);
}

WATTWERK_INLINE std::uint8_t state_of(StateVector state) { return static_cast<std::uint8_t>(_mm_cvtsi128_si32(state)); }
#elif defined(__aarch64__) && defined(WATTWERK_NEON)
using StateVector = uint8x16_t;

WATTWERK_INLINE StateVector state_vector(std::uint32_t state) { return vdupq_n_u8(static_cast<std::uint8_t>(state)); }

WATTWERK_INLINE StateVector look_up(const std::uint8_t* table, StateVector state) {
    return vqtbl1q_u8(vld1q_u8(table), vandq_u8(state, vdupq_n_u8(15)));
}

WATTWERK_INLINE std::uint8_t state_of(StateVector state) { return vgetq_lane_u8(state, 0); }
#else
using StateVector = std::uint8_t;

WATTWERK_INLINE StateVector state_vector(std::uint32_t state) { return static_cast<StateVector>(state); }
WATTWERK_INLINE StateVector look_up(const std::uint8_t* table, StateVector state) { return table[state & 15]; }
WATTWERK_INLINE std::uint8_t state_of(StateVector state) { return state; }
#endif

// For quantised values, of which only the state knows which level they are: the row of the table of transitions.
WATTWERK_INLINE std::uint32_t parities_of(std::int32_t value) {
    const std::int32_t sign = (value > 0) - (value < 0);
    return static_cast<std::uint32_t>((value & 2) | (((value + sign) >> 1) & 1));
}

WATTWERK_INLINE StateVector step(StateVector state, std::uint32_t parities) {
    return look_up(kTransitions.next[parities], state);
}

}  // namespace wattwerk::WATTWERK_ISA
