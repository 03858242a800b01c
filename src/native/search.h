// The choice of a start and of rates of adaptation for each context: all nine sets run over the same bins, and what
// each would cost is added up.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "coder.h"

namespace wattwerk::WATTWERK_ISA {

constexpr double log2_of(double value) {
    double whole = 0, part = 0.5, result = 0;
    while (value < 1) value *= 2, whole -= 1;
    while (value >= 2) value /= 2, whole += 1;
    for (int bit = 0; bit < 24; ++bit, part /= 2) {
        value *= value;
        if (value >= 2) value /= 2, result += part;
    }
    return whole + result;
}

// What a bin costs, in 1/256 bit, by row: the mean over the ranges that the coder may have.
struct CostTables {
    std::uint16_t cost[2][64];

    constexpr CostTables() : cost{} {
        for (int row = 0; row < 64; ++row) {
            const int distance = row < 32 ? 32 - row : row - 32;
            const double least = kProbabilities[distance > 31 ? 31 : distance] * 12.5 / 8 / 384;
            const auto rare = static_cast<std::uint16_t>(-256 * log2_of(least) + 0.5);
            const auto usual = static_cast<std::uint16_t>(-256 * log2_of(1 - least) + 0.5);
            cost[row >= 32 ? 1 : 0][row] = usual;
            cost[row >= 32 ? 0 : 1][row] = rare;
        }
    }
};

inline constexpr CostTables kCosts{};

constexpr double kSetSignal = 5 * 256;  // what it costs to tell a set other than the first

class SetSearch {
  public:
    // `scale`: how many times the operations after the first ones stand for, since the tensor goes on after the sample.
    explicit SetSearch(std::uint32_t contexts, double scale) : contexts_(contexts), scale_(scale) {
        for (std::uint32_t context = 0; context < contexts; ++context) reset_counters(context);
        std::memset(costs_, 0, sizeof costs_[0] * contexts);
        std::memset(starts_, 0, sizeof starts_[0] * contexts);
    }

    // What counts only once: quick sets win at the start, slow ones in the long run.
    void end_start() { std::memcpy(starts_, costs_, sizeof costs_[0] * contexts_); }

    void reset_counters(std::uint32_t context) {
        for (std::size_t set = 0; set < 16; ++set) {
            const ParameterSet& chosen = kSets[set < kParameterSets ? set : 0];
            a_[context][set] = static_cast<std::int16_t>(kScaleA * (chosen.start_a + kOriginA));
            b_[context][set] = static_cast<std::int16_t>(chosen.start_sum - 16 * chosen.start_a + kOriginB);
        }
    }

    void reset() {
        for (std::uint32_t context = 0; context < contexts_; ++context) reset_counters(context);
    }

    void observe(const Operation* operations, std::size_t count);

    // What the operations of a context have cost with its best set, in bits.
    double bits(std::uint32_t context) const { return cost(context, best(context)) / 256; }

    std::uint8_t best(std::uint32_t context) const {
        std::size_t found = 0;
        double least = cost(context, 0);
        for (std::size_t set = 1; set < kParameterSets; ++set) {
            const double here = cost(context, set) + kSetSignal;
            if (here < least) {
                least = here;
                found = set;
            }
        }
        return static_cast<std::uint8_t>(found);
    }

  private:
    // Counters as they are where they are computed with, and as indices where their successors are looked up.
#if defined(__AVX2__)
    static constexpr int kScaleA = 1, kOriginA = 0, kOriginB = 0;
#else
    static constexpr int kScaleA = 2, kOriginA = 128, kOriginB = 2048;
#endif

    double cost(std::uint32_t context, std::size_t set) const {
        const double start = starts_[context][set];
        return start + scale_ * (costs_[context][set] - start);
    }

    const std::uint32_t contexts_;
    const double scale_;
    alignas(64) std::int16_t a_[kMaxContexts][16];
    alignas(64) std::int16_t b_[kMaxContexts][16];
    alignas(64) std::uint32_t costs_[kMaxContexts][16];
    std::uint32_t starts_[kMaxContexts][16];
};

#if defined(__AVX512BW__)
inline void SetSearch::observe(const Operation* operations, std::size_t count) {
    alignas(64) std::int16_t shifts_a[16] = {}, shifts_b[16] = {};
    for (std::size_t set = 0; set < kParameterSets; ++set) {
        shifts_a[set] = static_cast<std::int16_t>(kSets[set].shift_a);
        shifts_b[set] = static_cast<std::int16_t>(kSets[set].shift_b);
    }
    alignas(64) std::int16_t adaptation[32];
    for (int index = 0; index < 32; ++index) adaptation[index] = static_cast<std::int16_t>(kAdaptation[index]);
    const __m512i table = _mm512_load_si512(adaptation);
    const __m512i cost0_low = _mm512_loadu_si512(kCosts.cost[0]), cost0_high = _mm512_loadu_si512(kCosts.cost[0] + 32);
    const __m512i cost1_low = _mm512_loadu_si512(kCosts.cost[1]), cost1_high = _mm512_loadu_si512(kCosts.cost[1] + 32);
    const __m256i shift_a = _mm256_load_si256(reinterpret_cast<const __m256i*>(shifts_a));
    const __m256i shift_b = _mm256_load_si256(reinterpret_cast<const __m256i*>(shifts_b));
    const __m256i sixteen = _mm256_set1_epi16(16), thirty_two = _mm256_set1_epi16(32);
    const auto look_up = [](__m512i from, __m256i index) {
        return _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_castsi256_si512(index), from));
    };
    for (std::size_t position = 0; position < count; ++position) {
        const std::uint32_t context = operations[position].where >> 2;
        const bool one = operations[position].where & 1;
        const __m256i flip = _mm256_set1_epi16(one ? 0 : -1);
        auto* at_a = reinterpret_cast<__m256i*>(a_[context]);
        auto* at_b = reinterpret_cast<__m256i*>(b_[context]);
        const __m256i a = _mm256_load_si256(at_a), b = _mm256_load_si256(at_b);
        const __m256i row =
            _mm256_add_epi16(_mm256_srai_epi16(_mm256_add_epi16(_mm256_slli_epi16(a, 4), b), 7), thirty_two);
        const __m512i cost = _mm512_permutex2var_epi16(one ? cost1_low : cost0_low, _mm512_castsi256_si512(row),
                                                       one ? cost1_high : cost0_high);
        auto* at_cost = reinterpret_cast<__m512i*>(costs_[context]);
        _mm512_store_si512(at_cost, _mm512_add_epi32(_mm512_load_si512(at_cost),
                                                     _mm512_cvtepu16_epi32(_mm512_castsi512_si256(cost))));
        const auto step = [&](__m256i counter, int scale, __m256i shift) {
            const __m256i signed_counter = _mm256_sub_epi16(_mm256_xor_si256(counter, flip), flip);
            const __m256i index = _mm256_add_epi16(
                scale == 3 ? _mm256_srai_epi16(signed_counter, 3) : _mm256_srai_epi16(signed_counter, 7), sixteen);
            const __m256i size = _mm256_srlv_epi16(look_up(table, index), shift);
            return _mm256_add_epi16(counter, _mm256_sub_epi16(_mm256_xor_si256(size, flip), flip));
        };
        _mm256_store_si256(at_a, step(a, 3, shift_a));
        _mm256_store_si256(at_b, step(b, 7, shift_b));
    }
}
#elif defined(__AVX2__)
// A table of 32 bytes, looked up in by bytes below 32: two halves, of which bit 4 says which one counts.
struct ByteTable {
    __m128i first, second;

    template <typename Value>
    explicit ByteTable(Value value) {
        alignas(16) std::uint8_t bytes[32];
        for (int index = 0; index < 32; ++index) bytes[index] = static_cast<std::uint8_t>(value(index));
        first = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
        second = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes + 16));
    }

    __m128i at(__m128i index, __m128i which) const {
        return _mm_blendv_epi8(_mm_shuffle_epi8(first, index), _mm_shuffle_epi8(second, index), which);
    }
    __m256i at(__m256i index, __m256i which) const {
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(first), index),
                                  _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(second), index), which);
    }
};

inline void SetSearch::observe(const Operation* operations, std::size_t count) {
    // sizes of steps are multiples of 16, so that a byte is enough, shifted by four less
    alignas(32) std::uint16_t factors_a[16] = {}, factors_b[16] = {};
    for (std::size_t set = 0; set < kParameterSets; ++set) {
        factors_a[set] = static_cast<std::uint16_t>(4096 >> kSets[set].shift_a);
        factors_b[set] = static_cast<std::uint16_t>(4096 >> kSets[set].shift_b);
    }
    const __m256i factor_a = _mm256_load_si256(reinterpret_cast<const __m256i*>(factors_a));
    const __m256i factor_b = _mm256_load_si256(reinterpret_cast<const __m256i*>(factors_b));
    const ByteTable sizes([](int index) { return kAdaptation[index] >> 4; });
    // by distance from the middle row: what the more probable bin costs fits into a byte
    const ByteTable usual([](int distance) { return kCosts.cost[1][32 + distance]; });
    const ByteTable rare_low([](int distance) { return kCosts.cost[0][32 + distance] & 255; });
    const ByteTable rare_high([](int distance) { return kCosts.cost[0][32 + distance] >> 8; });
    const __m256i zero = _mm256_setzero_si256(), sixteen = _mm256_set1_epi16(16);
    const __m128i most_distant = _mm_set1_epi8(31);
    for (std::size_t position = 0; position < count; ++position) {
        const std::uint32_t context = operations[position].where >> 2;
        const int bin = operations[position].where & 1;
        const __m256i sign = _mm256_set1_epi16(static_cast<std::int16_t>(2 * bin - 1));
        auto* at_a = reinterpret_cast<__m256i*>(a_[context]);
        auto* at_b = reinterpret_cast<__m256i*>(b_[context]);
        const __m256i a = _mm256_load_si256(at_a), b = _mm256_load_si256(at_b);

        const __m256i rows = _mm256_srai_epi16(_mm256_add_epi16(_mm256_slli_epi16(a, 4), b), 7);
        const __m128i row = _mm_packs_epi16(_mm256_castsi256_si128(rows), _mm256_extracti128_si256(rows, 1));
        const __m128i distance = _mm_min_epu8(_mm_abs_epi8(row), most_distant), half = _mm_slli_epi16(distance, 3);
        const __m128i is_rare = _mm_xor_si128(row, _mm_set1_epi8(static_cast<char>(bin - 1)));
        const __m128i low = _mm_blendv_epi8(usual.at(distance, half), rare_low.at(distance, half), is_rare);
        const __m128i high = _mm_blendv_epi8(_mm_setzero_si128(), rare_high.at(distance, half), is_rare);
        auto* at_cost = reinterpret_cast<__m256i*>(costs_[context]);
        const __m256i cost0 = _mm256_cvtepu16_epi32(_mm_unpacklo_epi8(low, high));
        const __m256i cost1 = _mm256_cvtepu16_epi32(_mm_unpackhi_epi8(low, high));
        _mm256_store_si256(at_cost, _mm256_add_epi32(_mm256_load_si256(at_cost), cost0));
        _mm256_store_si256(at_cost + 1, _mm256_add_epi32(_mm256_load_si256(at_cost + 1), cost1));

        const __m256i index_a = _mm256_add_epi16(_mm256_srai_epi16(_mm256_sign_epi16(a, sign), 3), sixteen);
        const __m256i index_b = _mm256_add_epi16(_mm256_srai_epi16(_mm256_sign_epi16(b, sign), 7), sixteen);
        const __m256i index = _mm256_packus_epi16(index_a, index_b);  // unpacking undoes it
        const __m256i size = sizes.at(index, _mm256_slli_epi16(index, 3));
        const __m256i size_a = _mm256_mulhi_epu16(_mm256_unpacklo_epi8(zero, size), factor_a);
        const __m256i size_b = _mm256_mulhi_epu16(_mm256_unpackhi_epi8(zero, size), factor_b);
        _mm256_store_si256(at_a, _mm256_add_epi16(a, _mm256_sign_epi16(size_a, sign)));
        _mm256_store_si256(at_b, _mm256_add_epi16(b, _mm256_sign_epi16(size_b, sign)));
    }
}
#else
inline void SetSearch::observe(const Operation* operations, std::size_t count) {
    for (std::size_t position = 0; position < count; ++position) {
        const std::uint32_t context = operations[position].where >> 2, bin = operations[position].where & 1;
        for (std::size_t set = 0; set < kParameterSets; ++set) {
            const auto quick = static_cast<std::uint32_t>(a_[context][set]), slow = static_cast<std::uint32_t>(b_[context][set]);
            costs_[context][set] += kCosts.cost[bin][row_of(quick, slow)];
            a_[context][set] = static_cast<std::int16_t>(kQuick[kSets[set].shift_a - 4].next[quick >> 1][bin]);
            b_[context][set] = static_cast<std::int16_t>(kSlow[kSets[set].shift_b - 4].next[slow][bin]);
        }
    }
}
#endif

}  // namespace wattwerk::WATTWERK_ISA
