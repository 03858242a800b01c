// One tensor into the arithmetic codeword: flags, parameter sets, levels.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "binarise.h"
#include "quantise.h"
#include "search.h"

namespace wattwerk::WATTWERK_ISA {

// Calls visit(context) for every context whose parameter set is told, in the order of the syntax.
template <typename Visit>
void each_told_context(const TensorSpec& spec, bool history, Visit visit) {
    const Layout layout{spec.unary};
    const auto span = [&visit](std::uint32_t first, std::uint32_t end) {
        for (std::uint32_t context = first; context < end; ++context) visit(context);
    };
    const bool modelled = spec.codebook_size != 1;
    const bool parent = spec.base != nullptr;
    if (modelled) {
        span(0, spec.dependent ? 24 : 3);
        if (parent) span(24, spec.dependent ? 40 : 26);
        if (history) span(40, spec.dependent ? 48 : 41);
        if (!one_sided(spec)) span(48, parent ? 53 : 51);
    }
    const std::int64_t positive = std::int64_t{spec.codebook_size} - 1 - spec.codebook_zero;
    const std::int64_t largest = spec.codebook_size == 0
                                     ? -1
                                     : (positive > spec.codebook_zero ? positive : std::int64_t{spec.codebook_zero});
    const std::uint32_t greater = layout.greater(), flags = 2 * spec.unary;
    for (std::uint32_t index = 0; index < flags; ++index)
        if (largest < 0 || index < 2 * largest) visit(greater + index);
    if (parent)
        for (std::uint32_t index = 0; index < flags; ++index)
            if (largest < 0 || index < 2 * (largest - 1)) visit(greater + flags + index);
    std::int64_t reached = std::int64_t{spec.unary} - 1;
    for (std::uint32_t index = 0; index < 31; ++index) {
        reached += std::int64_t{1} << index;
        if (largest < 0 || reached < largest) visit(layout.remainder() + index);
    }
}

// ---- the number of unary flags -------------------------------------------------------------------------------------

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

// The number of unary flags with the fewest bits; a bin also costs time, so that few of them break ties.
inline std::uint32_t choose_unary(const Histogram& histogram) {
    constexpr double kBinWeight = 0.001;
    double beyond[Histogram::kSmall + 1];  // levels of this magnitude or a larger one
    beyond[Histogram::kSmall] = 0;
    for (double count : histogram.longer) beyond[Histogram::kSmall] += count;
    for (std::uint32_t size = Histogram::kSmall; size-- > 0;)
        beyond[size] = beyond[size + 1] + static_cast<double>(histogram.small[size]);
    const auto at_least = [&](std::int64_t size) {
        if (size <= Histogram::kSmall) return beyond[size];
        // beyond the small ones only lengths are known: the share within a length is taken as even
        double sum = 0;
        for (int length = 7; length < 33; ++length) {
            const double first = static_cast<double>(std::int64_t{1} << (length - 1));
            const double share = (2 * first - static_cast<double>(size)) / first;
            sum += static_cast<double>(histogram.longer[length]) * (share < 0 ? 0 : share > 1 ? 1 : share);
        }
        return sum;
    };
    std::uint32_t best = 10;
    double least = -1, flags = 0;
    for (std::uint32_t unary = 1; unary <= kUnaryChoices; ++unary) {
        flags += entropy_of(at_least(unary + 1), at_least(unary)) + kBinWeight * at_least(unary);
        double cost = flags, here = at_least(unary + 1);
        std::int64_t reached = unary + 1;
        for (std::uint32_t prefix = 0; prefix < 31 && here > 0; ++prefix) {
            reached += std::int64_t{1} << prefix;
            const double more = at_least(reached);
            cost += entropy_of(more, here) + kBinWeight * here + more;  // one bit without a model for each further bin
            here = more;
        }
        if (least < 0 || cost < least) {
            least = cost;
            best = unary;
        }
    }
    return best;
}

// ---- encoding ------------------------------------------------------------------------------------------------------

// Levels in the order of coding, a piece at a time; where they come from does not matter to the coder. A source can be
// rewound as long as no more than its sample has been taken.
class LevelSource {
  public:
    LevelSource(const std::int32_t* levels, std::uint64_t count, std::uint64_t width, int scan_order)
        : levels_(levels), count_(count), scan_(count, width, scan_order), gather_{scan_} {}

    std::uint64_t next(std::int32_t* piece) {
        const std::uint64_t n = count_ - seen_ < kPiece ? count_ - seen_ : kPiece;
        if (gather_.scan.blocks())
            gather_.take(levels_, piece, n);
        else
            std::memcpy(piece, levels_ + seen_, n * sizeof(std::int32_t));
        seen_ += n;
        return n;
    }

    void rewind() {
        seen_ = 0;
        gather_ = {scan_};
    }

    Fault fault = Fault::none;

  private:
    const std::int32_t* levels_;
    const std::uint64_t count_;
    const Scan scan_;
    Gather<std::int32_t> gather_;
    std::uint64_t seen_ = 0;
};

// The levels of a quantiser, the first ones of which are kept: they decide how the tensor is coded before it is.
class SampledSource {
  public:
    SampledSource(const float* values, const QuantiseSpec& spec, const RateTable* rate, std::uint64_t wanted)
        : quantiser_(values, spec, rate) {
        const std::uint64_t room = (wanted < spec.count ? wanted : spec.count) + kPiece;
        kept_ = static_cast<std::int32_t*>(std::malloc(room * sizeof(std::int32_t)));
        if (kept_ == nullptr) {
            fault = Fault::memory;
            return;
        }
        while (count_ < wanted) {
            const std::uint64_t n = quantiser_.next(kept_ + count_);
            if (n == 0) break;
            count_ += n;
        }
        fault = quantiser_.fault;
    }
    SampledSource(const SampledSource&) = delete;
    SampledSource& operator=(const SampledSource&) = delete;
    ~SampledSource() { std::free(kept_); }

    std::uint64_t next(std::int32_t* piece) {
        if (fault != Fault::none) return 0;
        if (replayed_ < count_) {
            const std::uint64_t n = count_ - replayed_ < kPiece ? count_ - replayed_ : kPiece;
            std::memcpy(piece, kept_ + replayed_, n * sizeof(std::int32_t));
            replayed_ += n;
            return n;
        }
        const std::uint64_t n = quantiser_.next(piece);
        fault = quantiser_.fault;
        return n;
    }

    void rewind() { replayed_ = 0; }
    const std::int32_t* sample() const { return kept_; }
    std::uint64_t sample_count() const { return count_; }

    Fault fault = Fault::none;

  private:
    Quantiser quantiser_;
    std::int32_t* kept_ = nullptr;
    std::uint64_t count_ = 0, replayed_ = 0;
};

// Rows that hold nothing but zeros; null where there are none or they may not be told.
struct EmptyRows {
    std::uint8_t* flags = nullptr;
    ~EmptyRows() { std::free(flags); }

    // Marks the rows of levels that come in the order of coding.
    template <typename Source>
    Fault find(Source& source, const TensorSpec& spec, std::int32_t* piece) {
        const std::uint64_t rows = spec.count / spec.width;
        flags = static_cast<std::uint8_t*>(std::malloc(rows));
        if (flags == nullptr) return Fault::memory;
        std::memset(flags, 1, rows);
        Scan scan(spec.count, spec.width, spec.scan_order);
        std::uint64_t used = 0;
        while (const std::uint64_t n = source.next(piece)) {
            for (std::uint64_t index = 0; index < n;) {
                const std::uint64_t run = scan.run_width();
                const std::uint64_t length = run - used < n - index ? run - used : n - index;
                std::int32_t any = 0;
                for (std::uint64_t at = 0; at < length; ++at) any |= piece[index + at];
                if (any != 0) flags[scan.row] = 0;
                index += length;
                used += length;
                if (used == run) {
                    used = 0;
                    scan.next_run();
                }
            }
        }
        bool found = false;
        for (std::uint64_t row = 0; row < rows; ++row) found |= flags[row] != 0;
        if (!found && !spec.force_row_skip) {
            std::free(flags);
            flags = nullptr;
        }
        return source.fault;
    }
};

// Walks through the levels of a tensor and hands operations on. `Events` hears of operations and block rows.
template <typename Source, typename Events>
Fault walk(Source& source, const TensorSpec& spec, const std::uint8_t* empty_rows, std::uint64_t limit,
           Binariser& binariser, std::int32_t* piece, Events&& events) {
    Scan scan(spec.count, spec.width, spec.scan_order);
    const bool positions = spec.base != nullptr || spec.history != nullptr;
    const bool block_rows = scan.blocks() && scan.block_rows() > 1;
    std::uint64_t used = 0, walked = 0;
    const auto sink = [&events](const Operation* operations, std::size_t count) { return events.code(operations, count); };
    if (!positions && !block_rows && empty_rows == nullptr) {  // nothing to look up along the way
        while (walked < limit) {
            const std::uint64_t n = source.next(piece);
            if (n == 0) break;
            const std::uint64_t wanted = n < limit - walked ? n : limit - walked;
            if (!binariser.run(piece, wanted, nullptr, sink)) return binariser.fault != Fault::none ? binariser.fault : Fault::memory;
            walked += n;
        }
        return !binariser.drain(sink) ? Fault::memory : source.fault;
    }
    std::uint64_t where[kPiece];
    while (walked < limit) {
        const std::uint64_t n = source.next(piece);
        if (n == 0) break;
        walked += n;
        for (std::uint64_t index = 0; index < n;) {
            if (block_rows && used == 0 && scan.at_block_row_start()) {
                if (!binariser.drain(sink)) return Fault::memory;
                binariser.start_block_row();
                events.block_row(binariser.state());
            }
            const std::uint64_t run = scan.run_width();
            const std::uint64_t length = run - used < n - index ? run - used : n - index;
            if (empty_rows != nullptr && empty_rows[scan.row]) {
                if (used == 0) binariser.skip_row();
            } else {
                for (std::uint64_t at = 0; positions && at < length; ++at) where[at] = scan.position() + used + at;
                if (!binariser.run(piece + index, length, positions ? where : nullptr, sink))
                    return binariser.fault != Fault::none ? binariser.fault : Fault::memory;
            }
            index += length;
            used += length;
            if (used == run) {
                used = 0;
                scan.next_run();
            }
        }
    }
    return !binariser.drain(sink) ? Fault::memory : source.fault;
}

struct SearchEvents {
    SetSearch& search;
    bool started = false;
    bool code(const Operation* operations, std::size_t count) {
        search.observe(operations, count);
        if (!started) search.end_start();
        started = true;
        return true;
    }
    void block_row(std::uint32_t) { search.reset(); }
};

struct CodingEvents {
    EncoderState& state;
    Context* contexts;
    const Context* started;
    std::uint32_t context_count;
    Chosen& chosen;

    bool code(const Operation* operations, std::size_t count) {
        return WATTWERK_ISA::code(state, contexts, operations, count);
    }
    void block_row(std::uint32_t trellis_state) {
        state.range = 256;
        std::memcpy(contexts, started, context_count * sizeof(Context));
        if (chosen.entry_points != nullptr)
            chosen.entry_points[chosen.entry_point_count++] = {static_cast<std::uint32_t>(state.low & 511), trellis_state,
                                                                8 * std::uint64_t{state.out.size} + state.pending};
    }
};

// Codes the flags before the levels; `flags` is null where no row is skipped.
inline Fault code_head(EncoderState& state, Context* contexts, const TensorSpec& spec, const std::uint8_t* empty_rows) {
    const Layout layout{spec.unary};
    if (!reserve(state.out, 64)) return Fault::memory;
    if (!has_row_flags(spec)) return Fault::none;
    if (spec.parent) put_bits(state, spec.history != nullptr, 1);
    put_bits(state, empty_rows != nullptr, 1);
    if (empty_rows == nullptr) return Fault::none;
    for (std::uint64_t row = 0; row < spec.count / spec.width; ++row) {
        const Operation operation = modelled(layout.row_skip(), empty_rows[row]);
        if (!code(state, contexts, &operation, 1)) return Fault::memory;
    }
    return Fault::none;
}

inline Fault code_sets(EncoderState& state, Context* contexts, const TensorSpec& spec, const ParameterChoice& sets) {
    const Layout layout{spec.unary};
    Fault fault = Fault::none;
    each_told_context(spec, spec.history != nullptr && has_row_flags(spec) && spec.parent, [&](std::uint32_t context) {
        const std::uint32_t set = sets.set[context];
        const Operation operations[2] = {modelled(layout.parameter_set(), set != 0),
                                         unmodelled(layout.bypass(), set == 0 ? 0 : set - 1, 3)};
        if (!code(state, contexts, operations, set == 0 ? 1 : 2)) fault = Fault::memory;
    });
    return fault;
}

// Chooses the sets by what they would have cost over the first values.
template <typename Source>
Fault search_sets(Source& source, const TensorSpec& spec, const std::uint8_t* empty_rows, std::uint64_t limit,
                  std::int32_t* piece, ParameterChoice& sets) {
    const Layout layout{spec.unary};
    SetSearch search(layout.size(), static_cast<double>(spec.count) / static_cast<double>(limit));
    Binariser binariser(spec);
    const Fault fault = walk(source, spec, empty_rows, limit, binariser, piece, SearchEvents{search});
    each_told_context(spec, true, [&](std::uint32_t context) { sets.set[context] = search.best(context); });
    source.rewind();
    return fault;
}

// Skipped parts of rows in blocks advance the trellis by a whole row: a path that the quantiser does not take.
inline bool may_skip_rows(const TensorSpec& spec) {
    return has_row_flags(spec) &&
           (spec.force_row_skip || (spec.row_skip && !(spec.dependent && spec.scan_order > 0)));
}

// Codes a tensor. `empty_rows` are null where none is told; `limit` is at most the source's sample.
template <typename Source>
Fault encode(EncoderState& state, const TensorSpec& given, Source& source, const std::uint8_t* empty_rows,
             const std::uint8_t* given_sets, std::uint64_t limit, Chosen& chosen) {
    std::int32_t piece[kPiece];
    TensorSpec spec = given;
    if (!spec.profile1) spec.base = nullptr;
    if (!has_row_flags(spec) || !spec.parent) spec.history = nullptr;
    std::memset(&chosen.sets, 0, sizeof chosen.sets);
    chosen.unary = spec.unary;
    const bool history = spec.history != nullptr;
    if (given_sets != nullptr) {
        each_told_context(spec, history, [&](std::uint32_t context) { chosen.sets.set[context] = *given_sets++; });
    } else if (limit > 0 && !silent(spec)) {
        const Fault fault = search_sets(source, spec, empty_rows, limit, piece, chosen.sets);
        if (fault != Fault::none) return fault;
    }
    const Layout layout{spec.unary};
    Context contexts[kMaxContexts], started[kMaxContexts];
    for (std::uint32_t context = 0; context < layout.size(); ++context) start(contexts[context], 0);
    start_bypass(contexts[layout.bypass()]);
    if (const Fault fault = code_head(state, contexts, spec, empty_rows); fault != Fault::none) return fault;
    if (const Fault fault = code_sets(state, contexts, spec, chosen.sets); fault != Fault::none) return fault;
    each_told_context(spec, history, [&](std::uint32_t context) { start(contexts[context], chosen.sets.set[context]); });
    std::memcpy(started, contexts, layout.size() * sizeof(Context));
    Binariser binariser(spec);
    return walk(source, spec, empty_rows, spec.count, binariser, piece,
                CodingEvents{state, contexts, started, layout.size(), chosen});
}

}  // namespace wattwerk::WATTWERK_ISA
