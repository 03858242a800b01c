// Quantisation: to the nearest multiple of the step, or along the best path of the eight-state trellis.
//
// The trellis works on integers (squared distances in units of 1/1024 squared step), so that every instruction set
// takes the same decisions. It goes on in pieces: a piece is decided once the values of a short look-ahead have been
// seen, by when all paths have the same past but in rare cases that cost next to nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(WATTWERK_NEON)
#include <arm_neon.h>
#endif

#include "scan.h"
#include "state_vector.h"
#include "tables.h"

namespace wattwerk::WATTWERK_ISA {

constexpr std::uint64_t kPiece = 8192;     // values that are quantised and coded together
constexpr std::uint64_t kLookAhead = 128;  // values seen beyond a piece
constexpr float kLevelLimit = 2147483392.0f;  // the largest float below 2^31, less room for the trellis
constexpr float kUnit = 1024.0f;
constexpr int kLargestMetric = 4600;  // of one step; four of them without rates
// Every state is reached from every other one in three steps: no path that begins elsewhere is cheaper than this. With what
// four steps add it still fits into 16 bits.
constexpr int kElsewhere = 3 * kLargestMetric + 1;

struct Trellis {
    // state after a step <- state before it, by which of the two branches was taken
    static constexpr std::uint8_t previous[2][8] = {{0, 2, 0, 2, 3, 1, 3, 1}, {4, 6, 4, 6, 7, 5, 7, 5}};
    // residue of the multiple, modulo four, that each branch takes
    static constexpr std::uint8_t residue[2][8] = {{0, 0, 2, 2, 1, 1, 3, 3}, {2, 2, 0, 0, 3, 3, 1, 1}};

    alignas(16) std::int16_t costs[8];
    std::uint64_t* metrics;    // four 16-bit distances for each value, by residue
    std::uint8_t* decisions;   // a bit for each state
    std::uint8_t* residues;

    void only(int state) {
        for (int index = 0; index < 8; ++index) costs[index] = static_cast<std::int16_t>(index == state ? 0 : kElsewhere);
    }

    static void measure(const float* values, float inverse, std::uint64_t count, std::uint64_t* out);
    void advance(std::uint64_t count);
    int best() const {
        int found = 0;
        for (int index = 1; index < 8; ++index)
            if (costs[index] < costs[found]) found = index;
        return found;
    }
    int trace_back(std::uint64_t count, std::uint64_t kept, int state);
    static void levels(const float* values, float inverse, const std::uint8_t* residues, std::uint64_t count,
                       std::int32_t* out);
};

// The distances to the four multiples around each value. A residue that zero has too takes the nearer of both. In passes
// over short parts: with the bound of what is near zero in the same loop, a compiler would branch on it instead of using vectors.
inline void Trellis::measure(const float* values, float inverse, std::uint64_t count, std::uint64_t* out) {
    constexpr std::uint64_t kPart = 512;
    float near_zero[kPart];
    std::uint32_t low[kPart], high[kPart];
    for (; count > 0; ) {
        const std::uint64_t now = count < kPart ? count : kPart;
        for (std::uint64_t index = 0; index < now; ++index) {
            const float scaled = std::fabs(values[index]) * inverse;
            near_zero[index] = scaled < 4.0f ? scaled : 4.0f;
        }
        for (std::uint64_t index = 0; index < now; ++index) {
            const float scaled = std::fabs(values[index]) * inverse;
            const std::int32_t whole = static_cast<std::int32_t>(scaled);
            const std::int32_t first = whole > 2 ? whole - 1 : 1;
            const float offset = scaled - static_cast<float>(first);
            const std::int32_t zero = static_cast<std::int32_t>(near_zero[index] * near_zero[index] * kUnit + 0.5f);
            std::int32_t distance[4];
            for (int residue = 0; residue < 4; ++residue) {
                const float away = offset - static_cast<float>((residue - first) & 3);
                distance[residue] = static_cast<std::int32_t>(away * away * kUnit + 0.5f);
            }
            distance[0] = distance[0] < zero ? distance[0] : zero;
            distance[3] = distance[3] < zero ? distance[3] : zero;
            low[index] = static_cast<std::uint32_t>(distance[0] | distance[1] << 16);
            high[index] = static_cast<std::uint32_t>(distance[2] | distance[3] << 16);
        }
        for (std::uint64_t index = 0; index < now; ++index) out[index] = low[index] | std::uint64_t{high[index]} << 32;
        values += now;
        out += now;
        count -= now;
    }
}

#if defined(__SSSE3__)
inline __m128i words_at(const std::uint8_t (&pattern)[8]) {
    alignas(16) std::uint8_t bytes[16];
    for (int index = 0; index < 8; ++index) {
        bytes[2 * index] = static_cast<std::uint8_t>(2 * pattern[index]);
        bytes[2 * index + 1] = static_cast<std::uint8_t>(2 * pattern[index] + 1);
    }
    return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

inline void Trellis::advance(std::uint64_t count) {
    const __m128i from0 = words_at(previous[0]), from1 = words_at(previous[1]);
    const __m128i take0 = words_at(residue[0]), take1 = words_at(residue[1]), first = _mm_set1_epi16(0x0100);
    __m128i cost = _mm_load_si128(reinterpret_cast<const __m128i*>(costs));
    for (std::uint64_t index = 0; index < count; ++index) {
        const __m128i metric = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(metrics + index));
        const __m128i cost0 = _mm_add_epi16(_mm_shuffle_epi8(cost, from0), _mm_shuffle_epi8(metric, take0));
        const __m128i cost1 = _mm_add_epi16(_mm_shuffle_epi8(cost, from1), _mm_shuffle_epi8(metric, take1));
        cost = _mm_min_epi16(cost0, cost1);
        const __m128i second = _mm_cmpgt_epi16(cost0, cost1);
        decisions[index] = static_cast<std::uint8_t>(_mm_movemask_epi8(_mm_packs_epi16(second, second)));
        // states differ by three steps at most, and four more are added: this often, nothing overflows
        if ((index & 3) == 3) cost = _mm_sub_epi16(cost, _mm_shuffle_epi8(cost, first));
    }
    _mm_store_si128(reinterpret_cast<__m128i*>(costs), cost);
}
#elif defined(__aarch64__) && defined(WATTWERK_NEON)
inline uint8x16_t words_at(const std::uint8_t (&pattern)[8]) {
    std::uint8_t bytes[16];
    for (int index = 0; index < 8; ++index) {
        bytes[2 * index] = static_cast<std::uint8_t>(2 * pattern[index]);
        bytes[2 * index + 1] = static_cast<std::uint8_t>(2 * pattern[index] + 1);
    }
    return vld1q_u8(bytes);
}

inline int16x8_t picked(int16x8_t words, uint8x16_t pattern) {
    return vreinterpretq_s16_u8(vqtbl1q_u8(vreinterpretq_u8_s16(words), pattern));
}

inline void Trellis::advance(std::uint64_t count) {
    const uint8x16_t from0 = words_at(previous[0]), from1 = words_at(previous[1]);
    const uint8x16_t take0 = words_at(residue[0]), take1 = words_at(residue[1]);
    const uint16x8_t bits = {1, 2, 4, 8, 16, 32, 64, 128};
    int16x8_t cost = vld1q_s16(costs);
    for (std::uint64_t index = 0; index < count; ++index) {
        const int16x8_t metric = vcombine_s16(vcreate_s16(metrics[index]), vdup_n_s16(0));
        const int16x8_t cost0 = vaddq_s16(picked(cost, from0), picked(metric, take0));
        const int16x8_t cost1 = vaddq_s16(picked(cost, from1), picked(metric, take1));
        cost = vminq_s16(cost0, cost1);
        decisions[index] = static_cast<std::uint8_t>(vaddvq_u16(vandq_u16(vcgtq_s16(cost0, cost1), bits)));
        if ((index & 3) == 3) cost = vsubq_s16(cost, vdupq_laneq_s16(cost, 0));  // as often as above
    }
    vst1q_s16(costs, cost);
}
#else
inline void Trellis::advance(std::uint64_t count) {
    std::int16_t now[8], then[8];
    std::memcpy(now, costs, sizeof now);
    for (std::uint64_t index = 0; index < count; ++index) {
        std::int16_t metric[4];
        std::memcpy(metric, metrics + index, sizeof metric);
        unsigned second = 0;
        for (int state = 0; state < 8; ++state) {
            const int cost0 = now[previous[0][state]] + metric[residue[0][state]];
            const int cost1 = now[previous[1][state]] + metric[residue[1][state]];
            second |= static_cast<unsigned>(cost0 > cost1) << state;
            then[state] = static_cast<std::int16_t>(cost0 > cost1 ? cost1 : cost0);
        }
        const std::int16_t first = (index & 3) == 3 ? then[0] : std::int16_t{0};  // as often as above
        for (int state = 0; state < 8; ++state) now[state] = static_cast<std::int16_t>(then[state] - first);
        decisions[index] = static_cast<std::uint8_t>(second);
    }
    std::memcpy(costs, now, sizeof now);
}
#endif

// One step back from every state, for each of the 256 decisions of a value.
struct BackSteps {
    alignas(16) std::uint8_t entry[256][16];  // state before (3 bits) and residue (2 bits)

    constexpr BackSteps() : entry{} {
        for (int decided = 0; decided < 256; ++decided)
            for (int index = 0; index < 16; ++index) {
                const int state = index & 7, branch = (decided >> state) & 1;
                entry[decided][index] =
                    static_cast<std::uint8_t>(Trellis::previous[branch][state] | Trellis::residue[branch][state] << 3);
            }
    }
};

inline constexpr BackSteps kBack{};

// Follows the path back from the last value; notes the residues of the first `kept` ones. Returns the state after these.
inline int Trellis::trace_back(std::uint64_t count, std::uint64_t kept, int state) {
    StateVector at = state_vector(static_cast<std::uint32_t>(state));
    std::uint64_t index = count;
    for (; index > kept; --index) at = look_up(kBack.entry[decisions[index - 1]], at);
    const int after = state_of(at) & 7;
    for (; index > 0; --index) {
        at = look_up(kBack.entry[decisions[index - 1]], at);
        residues[index - 1] = static_cast<std::uint8_t>(state_of(at) >> 3);
    }
    return after;
}

inline void Trellis::levels(const float* values, float inverse, const std::uint8_t* residues, std::uint64_t count,
                            std::int32_t* out) {
    for (std::uint64_t index = 0; index < count; ++index) {
        const float scaled = std::fabs(values[index]) * inverse;
        const std::int32_t whole = static_cast<std::int32_t>(scaled);
        const std::int32_t first = whole > 2 ? whole - 1 : 1;
        const std::int32_t residue = residues[index];
        const std::int32_t multiple = first + ((residue - first) & 3);
        // residues 0 and 3 are those that zero has in its two quantisers
        const std::int32_t shared = (residue == 0) | (residue == 3);
        const std::int32_t zero = shared & (scaled + scaled < static_cast<float>(multiple));
        const std::int32_t magnitude = multiple & (zero - 1);
        const std::int32_t sign = values[index] < 0 ? -1 : 0;
        out[index] = (magnitude ^ sign) - sign;
    }
}

inline void nearest(const float* values, float inverse, std::uint64_t count, std::int32_t* out) {
    for (std::uint64_t index = 0; index < count; ++index) {
        const float scaled = std::fabs(values[index]) * inverse;
        const std::int32_t whole = static_cast<std::int32_t>(scaled);
        const std::int32_t magnitude = whole + (scaled - static_cast<float>(whole) >= 0.5f ? 1 : 0);
        out[index] = values[index] < 0 ? -magnitude : magnitude;
    }
}

// As integers, magnitudes are ordered as they are as numbers, with infinity and what is no number above all others.
inline float largest_magnitude(const float* values, std::uint64_t count) {
    std::uint32_t largest = 0;
    for (std::uint64_t index = 0; index < count; ++index) {
        std::uint32_t bits;
        std::memcpy(&bits, values + index, sizeof bits);
        bits &= 0x7fffffff;
        largest = largest > bits ? largest : bits;
    }
    float magnitude;
    std::memcpy(&magnitude, &largest, sizeof magnitude);
    return magnitude;
}

// True where every value is finite and small enough for a level.
inline bool representable(const float* values, float inverse, std::uint64_t count) {
    return largest_magnitude(values, count) * inverse < kLevelLimit;
}

// What levels cost, for quantisation that weighs error against size. From how often each occurs without that weighing.
struct RateTable {
    static constexpr std::uint32_t kSize = 256;
    float cost[kSize + 1];  // in units of the trellis, by magnitude; the last one stands for all larger ones
    float slope;            // of larger magnitudes, each time they double

    void fill(const std::uint64_t (&counts)[kSize + 1], std::uint64_t total, double unit_of_bit) {
        for (std::uint32_t size = 0; size <= kSize; ++size) {
            // neighbours lend to what is rare, so that nothing is free of cost or without bound
            double mass = 0.25 + static_cast<double>(counts[size]);
            if (size > 1) mass = 0.5 * mass + 0.25 * (static_cast<double>(counts[size - 1]) + static_cast<double>(size < kSize ? counts[size + 1] : 0));
            double ratio = (static_cast<double>(total) + 1) / mass, bits = size == 0 ? 0 : 1;
            while (ratio >= 2) ratio *= 0.5, bits += 1;
            cost[size] = static_cast<float>((bits + ratio - 1) * unit_of_bit);
        }
        slope = static_cast<float>(2 * unit_of_bit);
    }

    float of(std::int32_t magnitude) const {
        if (magnitude < static_cast<std::int32_t>(kSize)) return cost[magnitude];
        float more = cost[kSize];
        for (std::int32_t size = magnitude >> 8; size > 1; size >>= 1) more += slope;
        return more;
    }
};

// As `measure`, with the cost of each level added; notes where zero is the better one of those that share a residue.
inline void measure_with_rate(const float* values, float inverse, std::uint64_t count, const RateTable& rate,
                              std::uint64_t* out, std::uint8_t* zeros) {
    for (std::uint64_t index = 0; index < count; ++index) {
        const float scaled = std::fabs(values[index]) * inverse;
        const std::int32_t whole = static_cast<std::int32_t>(scaled);
        const std::int32_t first = whole > 2 ? whole - 1 : 1;
        const float zero = scaled * scaled * kUnit + rate.cost[0];
        float costs[4], least = zero;
        for (int residue = 0; residue < 4; ++residue) {
            const std::int32_t multiple = first + ((residue - first) & 3);
            const float away = scaled - static_cast<float>(multiple);
            costs[residue] = away * away * kUnit + rate.of((multiple + 1) >> 1);
            least = least < costs[residue] ? least : costs[residue];
        }
        zeros[index] = static_cast<std::uint8_t>((zero < costs[0] ? 1 : 0) | (zero < costs[3] ? 8 : 0));
        costs[0] = costs[0] < zero ? costs[0] : zero;
        costs[3] = costs[3] < zero ? costs[3] : zero;
        std::uint64_t packed = 0;
        for (int residue = 0; residue < 4; ++residue) {
            const float relative = costs[residue] - least + 0.5f;
            packed |= static_cast<std::uint64_t>(relative < float{kLargestMetric} ? relative : float{kLargestMetric}) << (16 * residue);
        }
        out[index] = packed;
    }
}

inline void nearest_with_rate(const float* values, float inverse, std::uint64_t count, const RateTable& rate,
                              std::int32_t* out) {
    for (std::uint64_t index = 0; index < count; ++index) {
        const float scaled = std::fabs(values[index]) * inverse;
        const std::int32_t rounded = static_cast<std::int32_t>(scaled + 0.5f);
        std::int32_t best = 0;
        float least = scaled * scaled * kUnit + rate.cost[0];
        for (std::int32_t level = rounded > 1 ? rounded - 1 : 1; level <= rounded; ++level) {
            const float away = scaled - static_cast<float>(level), cost = away * away * kUnit + rate.of(level);
            if (cost < least) {
                least = cost;
                best = level;
            }
        }
        out[index] = values[index] < 0 ? -best : best;
    }
}

// Quantises a tensor piece by piece, in the order of coding.
class Quantiser {
  public:
    Quantiser(const float* values, const QuantiseSpec& spec, const RateTable* rate = nullptr)
        : values_(values),
          spec_(spec),
          inverse_(1.0f / spec.step),
          rate_(spec.rate_weight > 0 ? rate : nullptr),
          gather_{{spec.count, spec.width, spec.scan_order}} {
        trellis_.only(0);
        trellis_.metrics = metrics_;
        trellis_.decisions = decisions_;
        trellis_.residues = residues_;
    }

    Quantiser(const Quantiser&) = delete;  // the trellis points into this object
    Quantiser& operator=(const Quantiser&) = delete;

    // Quantises the next piece; returns its length, 0 at the end.
    std::uint64_t next(std::int32_t* levels) {
        fill();
        const std::uint64_t piece = held_ < kPiece ? held_ : kPiece;
        if (piece == 0) return 0;
        if (!representable(window_, inverse_, held_)) {
            fault = Fault::range;
            return 0;
        }
        if (spec_.dependent)
            decide(piece, levels);
        else if (rate_ != nullptr)
            nearest_with_rate(window_, inverse_, piece, *rate_, levels);
        else
            nearest(window_, inverse_, piece, levels);
        held_ -= piece;
        std::memmove(window_, window_ + piece, held_ * sizeof(float));
        return piece;
    }

    Fault fault = Fault::none;

  private:
    void fill() {
        const std::uint64_t room = kPiece + (spec_.dependent ? kLookAhead : 0) - held_;
        const std::uint64_t wanted = room < spec_.count - seen_ ? room : spec_.count - seen_;
        if (!gather_.scan.blocks())
            std::memcpy(window_ + held_, values_ + seen_, wanted * sizeof(float));
        else
            gather_.take(values_, window_ + held_, wanted);
        seen_ += wanted;
        held_ += wanted;
    }

    void decide(std::uint64_t piece, std::int32_t* levels) {
        if (rate_ != nullptr)
            measure_with_rate(window_, inverse_, held_, *rate_, metrics_, zeros_);
        else
            Trellis::measure(window_, inverse_, held_, metrics_);
        trellis_.advance(held_);
        trellis_.only(trellis_.trace_back(held_, piece, trellis_.best()));
        Trellis::levels(window_, inverse_, residues_, piece, levels);
        if (rate_ == nullptr) return;
        for (std::uint64_t index = 0; index < piece; ++index) {
            const int residue = residues_[index];
            if ((zeros_[index] >> residue) & 1)
                levels[index] = 0;
            else if (levels[index] == 0)
                levels[index] = values_sign(index) * (residue == 0 ? 4 : 3);  // the multiple that zero would have replaced
        }
    }

    std::int32_t values_sign(std::uint64_t index) const { return window_[index] < 0 ? -1 : 1; }

    const float* values_;
    const QuantiseSpec spec_;
    const float inverse_;
    const RateTable* rate_;
    Gather<float> gather_;
    Trellis trellis_;
    std::uint64_t seen_ = 0, held_ = 0;
    float window_[kPiece + kLookAhead];
    std::uint64_t metrics_[kPiece + kLookAhead];
    std::uint8_t decisions_[kPiece + kLookAhead];
    std::uint8_t residues_[kPiece + kLookAhead];
    std::uint8_t zeros_[kPiece + kLookAhead];
};

// Fills the table from the first levels that plain quantisation gives.
inline Fault learn_rates(const float* values, const QuantiseSpec& spec, RateTable& table) {
    constexpr std::uint64_t kSample = 65536;
    std::uint64_t counts[RateTable::kSize + 1] = {}, seen = 0;
    std::int32_t piece[kPiece];
    Quantiser quantiser(values, spec);
    while (seen < kSample) {
        const std::uint64_t n = quantiser.next(piece);
        if (n == 0) break;
        for (std::uint64_t index = 0; index < n; ++index) {
            std::uint32_t size = piece[index] < 0 ? 0u - static_cast<std::uint32_t>(piece[index])
                                                  : static_cast<std::uint32_t>(piece[index]);
            if (spec.dependent) size = (size + 1) >> 1;
            ++counts[size < RateTable::kSize ? size : RateTable::kSize];
        }
        seen += n;
    }
    // squared steps that one bit is worth: where rate and error of a fine uniform quantiser balance, 6 dB for each bit;
    // the trellis has half the step between its levels, and gains from a little less
    const double worth = spec.rate_weight * 0.11552453 * (spec.dependent ? 4 * 0.7 : 1);
    table.fill(counts, seen, worth * static_cast<double>(kUnit));
    return quantiser.fault;
}

}  // namespace wattwerk::WATTWERK_ISA
