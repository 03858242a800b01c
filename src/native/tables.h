// The constants of the arithmetic coder (ISO/IEC 15938-17): probability states, their adaptation, and the tables
// that follow from them.
#pragma once

#include <cstdint>

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

struct CodingTables {
    std::uint8_t least[kAllCodes][8];      // range of the less probable bin, by code and bits 5..7 of the range
    std::uint8_t next[kAllCodes][256];     // range after the bin and its renormalisation, less 256
    std::int32_t least_mask[kAllCodes];    // all ones where the code is the less probable bin

    constexpr CodingTables() : least{}, next{}, least_mask{} {
        for (int code = 0; code < kCodes; ++code) fill(code);
        for (int bin = 0; bin < 2; ++bin)
            for (int low = 0; low < 256; ++low) next[kBypassCode + bin][low] = static_cast<std::uint8_t>(low);
    }

    constexpr void fill(int code) {
        const int row = code / 2 - 32;
        const bool is_least = (code % 2 == 1) != (row >= 0);
        least_mask[code] = is_least ? -1 : 0;
        for (int quarter = 0; quarter < 8; ++quarter)
            least[code][quarter] = static_cast<std::uint8_t>(least_probable_range(row, quarter));
        for (int low = 0; low < 256; ++low) {
            const int range = 256 + low, lps = least_probable_range(row, low >> 5);
            const int kept = is_least ? lps : range - lps;
            next[code][low] = static_cast<std::uint8_t>((kept << leading_shift(kept)) - 256);
        }
    }
};

struct DecodingTables {
    std::uint64_t least[kRows][8];  // range of the less probable bin, aligned as the decoder's registers are

    constexpr DecodingTables() : least{} {
        for (int row = 0; row < kRows; ++row)
            for (int quarter = 0; quarter < 8; ++quarter)
                least[row][quarter] = static_cast<std::uint64_t>(least_probable_range(row - 32, quarter)) << 55;
    }
};

// Steps of the counters by (counter times sign of the bin) >> 3 or >> 7, plus 16; index: the shift.
struct StepTables {
    std::int16_t steps[8][40];

    constexpr StepTables() : steps{} {
        for (int shift = 1; shift < 8; ++shift)
            for (int index = 0; index < 32; ++index)
                steps[shift][index] = static_cast<std::int16_t>(kAdaptation[index] >> shift);
    }
};

inline constexpr CodingTables kCoding{};
inline constexpr DecodingTables kDecoding{};
inline constexpr StepTables kSteps{};

}  // namespace wattwerk::WATTWERK_ISA
