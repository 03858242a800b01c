// Block rows coded side by side, and joined to what one after the other would have given.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "levels.h"

namespace wattwerk::WATTWERK_ISA {

// A block row that is coded on its own: from a range of 256 and an empty register, as it begins in the codeword.
struct BlockRow {
    EncoderState state;
    const std::int32_t* levels;  // in the order of coding
    std::uint64_t count, taken;
    std::uint64_t index;
    std::uint32_t trellis;
    Fault fault;
    std::uint8_t apart[128];  // threads that write to neighbours would wait for each other

    std::uint64_t next(std::int32_t* piece) {
        const std::uint64_t n = count - taken < kPiece ? count - taken : kPiece;
        std::memcpy(piece, levels + taken, n * sizeof(std::int32_t));
        taken += n;
        return n;
    }
};

struct RowEvents {
    EncoderState& state;
    Context* contexts;
    bool code(const Operation* operations, std::size_t count) {
        return WATTWERK_ISA::code(state, contexts, operations, count);
    }
    void block_row(std::uint32_t) {}
};

// Appends what a block row has written. Its first bit is always zero, since its range begins with 256 of 512.
inline bool append(EncoderState& state, EncoderState& row) {
    if (!reserve(state.out, row.out.size + 32)) return false;
    if (row.low >> (row.pending + 9)) {
        carry(row.out);
        row.low &= (std::uint64_t{1} << (row.pending + 9)) - 1;
    }
    state.range = 256;
    for (std::size_t index = 0; index < row.out.size; ++index)
        index == 0 ? put_bits(state, row.out.data[0] & 127u, 7) : put_bits(state, row.out.data[index], 8);
    std::uint32_t bits = row.pending + (row.out.size > 0 ? 1 : 0);
    while (bits > 0) {
        const std::uint32_t now = bits > 8 ? 8 : bits;
        bits -= now;
        put_bits(state, static_cast<std::uint32_t>(row.low >> (8 + bits)) & ((1u << now) - 1), now);
    }
    state.low += row.low & 255;
    state.range = row.range;
    return true;
}

// Codes block rows some at a time: quantised one after the other, coded side by side, joined in order.
class BlockRowCoder {
  public:
    BlockRowCoder(const TensorSpec& spec, const Context* started, std::uint32_t context_count,
                  const std::uint8_t* empty_rows, const Parallel& parallel)
        : spec_(spec),
          started_(started),
          context_count_(context_count),
          empty_rows_(empty_rows),
          parallel_(parallel),
          block_(std::uint64_t{4} << spec.scan_order),
          wave_(wave_of(Scan(spec.count, spec.width, spec.scan_order).block_rows(), parallel.threads)) {
        rows_ = static_cast<BlockRow*>(std::calloc(wave_, sizeof(BlockRow)));
        levels_ = static_cast<std::int32_t*>(std::malloc((wave_ * block_ * spec.width + kPiece) * sizeof(std::int32_t)));
    }
    BlockRowCoder(const BlockRowCoder&) = delete;
    BlockRowCoder& operator=(const BlockRowCoder&) = delete;
    ~BlockRowCoder() {
        for (std::uint64_t index = 0; rows_ != nullptr && index < wave_; ++index) std::free(rows_[index].state.out.data);
        std::free(rows_);
        std::free(levels_);
    }

    template <typename Source>
    Fault run(EncoderState& state, Source& source, Chosen& chosen) {
        if (rows_ == nullptr || levels_ == nullptr) return Fault::memory;
        const std::uint64_t height = spec_.count / spec_.width;
        for (std::uint64_t row = 0; row * block_ < height; row += wave_) {
            const std::uint64_t left = height - row * block_;
            const std::uint64_t wanted = (left < wave_ * block_ ? left : wave_ * block_) * spec_.width;
            while (held_ < wanted) {
                const std::uint64_t n = source.next(levels_ + held_);
                if (n == 0) return source.fault != Fault::none ? source.fault : Fault::memory;
                held_ += n;
            }
            const std::uint64_t count = prepare(row, wanted);
            parallel_.run(parallel_, count, code_one, this);
            if (const Fault fault = join(state, count, chosen); fault != Fault::none) return fault;
            held_ -= wanted;
            std::memmove(levels_, levels_ + wanted, held_ * sizeof(std::int32_t));
        }
        return source.fault;
    }

  private:
    // Two for each thread, so that none waits long for the last one; not more than there are, since each needs room.
    static std::uint64_t wave_of(std::uint64_t block_rows, std::uint64_t threads) {
        return 2 * threads < block_rows ? 2 * threads : block_rows;
    }

    // Says what each block row of the wave is, and in which state of the trellis it begins; returns their number.
    std::uint64_t prepare(std::uint64_t first, std::uint64_t wanted) {
        std::uint64_t count = 0;
        for (std::uint64_t begin = 0; begin < wanted; begin += block_ * spec_.width, ++count) {
            BlockRow& row = rows_[count];
            row.levels = levels_ + begin;
            row.count = wanted - begin < block_ * spec_.width ? wanted - begin : block_ * spec_.width;
            row.taken = 0;
            row.index = first + count;
            row.trellis = trellis_;
            row.fault = Fault::none;
            row.state.out.size = 0;
            row.state.low = row.state.pending = 0;
            row.state.range = 256;
            StateVector state = state_vector(trellis_);
            for (std::uint64_t at = 0; spec_.dependent && at < row.count; ++at) state = step(state, parities_of(row.levels[at]));
            trellis_ = state_of(state);
        }
        return count;
    }

    static void code_one(void* argument, std::size_t index) {
        const auto& self = *static_cast<const BlockRowCoder*>(argument);
        BlockRow& row = self.rows_[index];
        Context contexts[kMaxContexts];
        std::memcpy(contexts, self.started_, self.context_count_ * sizeof(Context));
        std::int32_t piece[kPiece];
        Binariser binariser(self.spec_);
        binariser.start_at(row.trellis);
        const Fault fault =
            walk(row, self.spec_, self.empty_rows_, row.count, binariser, piece, RowEvents{row.state, contexts}, row.index);
        row.fault = fault;
    }

    Fault join(EncoderState& state, std::uint64_t count, Chosen& chosen) {
        for (std::uint64_t index = 0; index < count; ++index) {
            BlockRow& row = rows_[index];
            if (row.fault != Fault::none) return row.fault;
            chosen.entry_points[chosen.entry_point_count++] = {static_cast<std::uint32_t>(state.low & 511), row.trellis,
                                                                8 * std::uint64_t{state.out.size} + state.pending};
            if (!append(state, row.state)) return Fault::memory;
        }
        return Fault::none;
    }

    const TensorSpec& spec_;
    const Context* const started_;
    const std::uint32_t context_count_;
    const std::uint8_t* const empty_rows_;
    const Parallel& parallel_;
    const std::uint64_t block_, wave_;
    BlockRow* rows_ = nullptr;
    std::int32_t* levels_ = nullptr;
    std::uint64_t held_ = 0;
    std::uint32_t trellis_ = 0;
};

// Worth it, and possible: skipped rows move the trellis in ways that only the walk through all rows knows.
inline bool can_split(const TensorSpec& spec, const std::uint8_t* empty_rows, const Parallel& parallel, const Chosen& chosen) {
    const Scan scan(spec.count, spec.width, spec.scan_order);
    return parallel.threads > 1 && scan.blocks() && scan.block_rows() > 1 && chosen.entry_points != nullptr &&
           !(spec.dependent && empty_rows != nullptr);
}

}  // namespace wattwerk::WATTWERK_ISA
