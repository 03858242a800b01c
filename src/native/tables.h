// The constants of the arithmetic coder (ISO/IEC 15938-17): probability states, their adaptation, and the tables
// that follow from them.
#pragma once

#include <cstdint>

#define WATTWERK_INLINE inline __attribute__((always_inline))

namespace wattwerk::WATTWERK_ISA {

// A context holds two counters, a (8 bits, quick) and b (12 bits, slow); their sum S = 16 a + b says which bin is the
// more probable one (S >= 0: 1) and how probable.
constexpr int kProbabilities[32] = {114, 100, 87, 75, 66, 58, 51, 45, 40, 35, 31, 27, 24, 21, 18, 16,
                                    14,  13,  11, 10, 9,  8,  7,  7,  5,  5,  4,  4,  3,  3,  2,  2};

constexpr int kAdaptation[32] = {2512, 2288, 2064, 1840, 1616, 1392, 1168, 944, 720, 560, 464, 368, 272, 208, 144, 80,
                                 64,   64,   64,   64,   64,   64,   64,   64,  64,  64,  64,  64,  64,  64,  64,  0};

struct ParameterSet {
    int shift_a;
    int shift_b;
    int start_sum;
    int start_a;
};

constexpr ParameterSet kSets[9] = {{5, 4, 0, 0},     {5, 4, -1310, -41}, {5, 4, 3039, 95},
                                   {4, 5, 0, 0},     {6, 6, 962, 30},    {6, 6, 3039, 95},
                                   {6, 6, -673, -21}, {7, 5, 0, 0},      {7, 5, 962, 30}};

// The trellis of dependent quantisation: next state by parity of the level.
constexpr std::uint8_t kTransition[8][2] = {{0, 2}, {7, 5}, {1, 3}, {6, 4}, {2, 0}, {5, 7}, {3, 1}, {4, 6}};

// The same by the parities that the level would have in an even and in an odd state, for all states at once: 16 entries, the
// second eight as the first.
struct TransitionTable {
    alignas(16) std::uint8_t next[4][16];

    constexpr TransitionTable() : next{} {
        for (int parities = 0; parities < 4; ++parities)
            for (int state = 0; state < 16; ++state)
                next[parities][state] = kTransition[state & 7][state % 2 ? parities & 1 : parities >> 1];
    }
};

inline constexpr TransitionTable kTransitions{};

constexpr int kRows = 64;             // values of S >> 7, from -32 up
constexpr int kCodes = 2 * kRows;     // a row and the bin that is coded there
constexpr int kBypassCode = 2 * 96;   // the row of a context that stands for bits without a model
constexpr int kAllCodes = kBypassCode + 2;

constexpr int least_probable_range(int row, int quarter) {
    const int distance = row < 0 ? -row : row;
    return kProbabilities[distance > 31 ? 31 : distance] * (quarter + 9) / 8;
}

constexpr int leading_shift(int range) {
    int shift = 0;
    while ((range << shift) < 256) ++shift;
    return shift;
}

// What the coder looks up. A code is the less probable bin where its lowest bit differs from bit 6, which says that its
// row is 32 or more. Bits without a model are a bin 1 of a row of their own, the more probable one, with all of the range.
struct CodingTables {
    std::uint8_t next[kAllCodes][256];          // range after the bin and its renormalisation, less 256; index: before
    std::uint8_t least[kBypassCode / 2 + 1][8];  // range of the less probable bin, by row and bits 5..7 of the range

    constexpr CodingTables() : next{}, least{} {
        for (int row = 0; row < kRows; ++row) {
            for (int quarter = 0; quarter < 8; ++quarter)
                least[row][quarter] = static_cast<std::uint8_t>(least_probable_range(row - 32, quarter));
            for (int bin = 0; bin < 2; ++bin)
                for (int low = 0; low < 256; ++low) {
                    const int range = 256 + low, lps = least_probable_range(row - 32, low >> 5);
                    const int kept = (bin == 1) != (row >= 32) ? lps : range - lps;
                    next[2 * row + bin][low] = static_cast<std::uint8_t>((kept << leading_shift(kept)) - 256);
                }
        }
        for (int bin = 0; bin < 2; ++bin)
            for (int low = 0; low < 256; ++low) next[kBypassCode + bin][low] = static_cast<std::uint8_t>(low);
    }
};

// Successors of the counters after a bin, for each rate of adaptation. Counters are held so that they are indices:
// 2 (a + 128) and b + 2048. Each entry is followed by that for bin 1.
struct QuickCounters {
    std::uint16_t next[256][2];

    constexpr explicit QuickCounters(int shift) : next{} {
        for (int index = 0; index < 256; ++index) {
            const int a = index - 128, up = 16 + (a >> 3), down = 16 + (-a >> 3);
            next[index][1] = static_cast<std::uint16_t>(2 * (index + (kAdaptation[up] >> shift)));
            next[index][0] = static_cast<std::uint16_t>(2 * (index - (down > 31 ? 0 : kAdaptation[down] >> shift)));
        }
    }
};

struct SlowCounters {
    std::uint16_t next[4096][2];

    constexpr explicit SlowCounters(int shift) : next{} {
        for (int index = 0; index < 4096; ++index) {
            const int b = index - 2048, up = 16 + (b >> 7), down = 16 + (-b >> 7);
            next[index][1] = static_cast<std::uint16_t>(index + (kAdaptation[up] >> shift));
            next[index][0] = static_cast<std::uint16_t>(index - (down > 31 ? 0 : kAdaptation[down] >> shift));
        }
    }
};

// The counters of bits without a model, which never move: their row is 96, beyond those of the others.
struct StillQuick {
    std::uint16_t next[1][2];
};

struct StillSlow {
    std::uint16_t next[(kBypassCode / 2 << 7) + 1][2];

    constexpr StillSlow() : next{} {
        for (int bin = 0; bin < 2; ++bin) next[kBypassCode / 2 << 7][bin] = kBypassCode / 2 << 7;
    }
};

inline constexpr CodingTables kCoding{};
inline constexpr QuickCounters kQuick[4] = {QuickCounters(4), QuickCounters(5), QuickCounters(6), QuickCounters(7)};
inline constexpr SlowCounters kSlow[3] = {SlowCounters(4), SlowCounters(5), SlowCounters(6)};
inline constexpr SlowCounters kSlowest = SlowCounters(8);
inline constexpr StillQuick kStillQuick{};
inline constexpr StillSlow kStillSlow{};

}  // namespace wattwerk::WATTWERK_ISA
