// Where levels come from, which rows are empty, and the walk through them in the order of coding.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "binarise.h"
#include "quantise.h"

namespace wattwerk::WATTWERK_ISA {

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
           Binariser& binariser, std::int32_t* piece, Events&& events, std::uint64_t first_block_row = 0) {
    Scan scan(spec.count, spec.width, spec.scan_order);
    if (first_block_row > 0) scan.seek_block_row(first_block_row);
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

}  // namespace wattwerk::WATTWERK_ISA
