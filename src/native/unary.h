// How many unary flags a tensor is coded with.
#pragma once

#include <cstdint>

#include "codec.h"

namespace wattwerk::WATTWERK_ISA {

// Numbers of levels by magnitude; larger ones by their length in bits.
struct Histogram {
    static constexpr std::uint32_t kSmall = 64;
    std::uint64_t total = 0;
    std::uint64_t small[kSmall] = {};
    std::uint64_t longer[33] = {};

    void add(const std::int32_t* levels, std::uint64_t count, bool dependent) {
        for (std::uint64_t index = 0; index < count; ++index) {
            std::uint32_t size = levels[index] < 0 ? 0u - static_cast<std::uint32_t>(levels[index])
                                                   : static_cast<std::uint32_t>(levels[index]);
            if (dependent) size = (size + 1) >> 1;
            if (size < kSmall)
                ++small[size];
            else
                ++longer[32 - __builtin_clz(size)];
        }
        total += count;
    }
};

constexpr std::uint32_t kUnaryChoices = 13;

inline double entropy_of(double ones, double all) {
    if (ones <= 0 || ones >= all) return 0;
    const auto information = [all](double part) {
        // a rational approximation of log2 is close enough to rank choices, and the same on every machine
        double ratio = all / part, whole = 0;
        while (ratio >= 2) ratio *= 0.5, whole += 1;
        const double x = (ratio - 1) / (ratio + 1), y = x * x;
        return part * (whole + 2.885390081777927 * x * (1 + y * (1.0 / 3 + y * (1.0 / 5 + y / 7))));
    };
    return information(ones) + information(all - ones);
}

// Bits that a bin is worth for the time that it takes.
constexpr double kBinWeight = 0.008;

// The number of unary flags with the fewest bits by entropy, with so many bits added for each bin.
inline std::uint32_t choose_unary(const Histogram& histogram, double bin_weight) {
    double longer[34] = {};  // levels of this length or a larger one
    for (int length = 33; length-- > 0;) longer[length] = longer[length + 1] + static_cast<double>(histogram.longer[length]);
    double beyond[Histogram::kSmall + 1];  // levels of this magnitude or a larger one
    beyond[Histogram::kSmall] = longer[0];
    for (std::uint32_t size = Histogram::kSmall; size-- > 0;)
        beyond[size] = beyond[size + 1] + static_cast<double>(histogram.small[size]);
    const auto at_least = [&](std::int64_t size) {
        if (size <= Histogram::kSmall) return beyond[size];
        if (size >> 32) return 0.0;
        // beyond the small ones only lengths are known: the share within a length is taken as even
        const int length = 32 - __builtin_clz(static_cast<std::uint32_t>(size));
        const double first = static_cast<double>(std::int64_t{1} << (length - 1));
        const double share = (2 * first - static_cast<double>(size)) / first;
        return longer[length + 1] + static_cast<double>(histogram.longer[length]) * share;
    };
    std::uint32_t best = 10;
    double least = -1, flags = 0;
    for (std::uint32_t unary = 1; unary <= kUnaryChoices; ++unary) {
        flags += entropy_of(at_least(unary + 1), at_least(unary)) + bin_weight * at_least(unary);
        double cost = flags, here = at_least(unary + 1);
        std::int64_t reached = unary + 1;
        for (std::uint32_t prefix = 0; prefix < 31 && here > 0; ++prefix) {
            reached += std::int64_t{1} << prefix;
            const double more = at_least(reached);
            cost += entropy_of(more, here) + bin_weight * here + more;  // one bit without a model for each further bin
            here = more;
        }
        if (least < 0 || cost < least) {
            least = cost;
            best = unary;
        }
    }
    return best;
}

}  // namespace wattwerk::WATTWERK_ISA
