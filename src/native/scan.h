// The order in which the values of a tensor are coded: raster, or blocks of a block row after each other.
#pragma once

#include <cstdint>
#include <cstring>

#include "codec.h"

namespace wattwerk::WATTWERK_ISA {

// Runs of consecutive values in the order of coding. Each run lies in one row of one block.
struct Scan {
    std::uint64_t count, width, height, block;
    std::uint64_t row_begin = 0, row_end = 0;  // of the block row
    std::uint64_t row = 0, column = 0;

    Scan(std::uint64_t count_, std::uint64_t width_, int scan_order)
        : count(count_), width(width_), height(width_ ? count_ / width_ : 0) {
        const bool blocks = scan_order > 0 && width > 1 && height > 1;
        block = blocks ? std::uint64_t{4} << scan_order : 0;
        row_end = block && block < height ? block : height;
    }

    bool blocks() const { return block != 0; }
    std::uint64_t block_rows() const { return block ? (height + block - 1) / block : 1; }
    std::uint64_t run_width() const { return block && column + block < width ? block : width - column; }
    std::uint64_t position() const { return row * width + column; }
    bool done() const { return row_begin >= height; }
    bool at_block_row_start() const { return row == row_begin && column == 0; }

    void next_run() {
        const std::uint64_t step = run_width();
        if (++row < row_end) return;
        row = row_begin;
        column += step;
        if (column < width) return;
        column = 0;
        row_begin = row = row_end;
        row_end = row_end + (block ? block : 1) < height ? row_end + (block ? block : 1) : height;
    }

    void seek_block_row(std::uint64_t index) {
        row_begin = row = index * block;
        row_end = row_begin + block < height ? row_begin + block : height;
        column = 0;
    }
};

// Copies values between raster order and the order of coding, a piece at a time.
template <typename T>
struct Gather {
    Scan scan;
    std::uint64_t used = 0;  // of the present run

    std::uint64_t take(const T* source, T* target, std::uint64_t wanted) {
        return move(wanted, [&](std::uint64_t from, std::uint64_t to, std::uint64_t n) {
            std::memcpy(target + to, source + from, n * sizeof(T));
        });
    }

    std::uint64_t put(const T* source, T* target, std::uint64_t wanted) {
        return move(wanted, [&](std::uint64_t to, std::uint64_t from, std::uint64_t n) {
            std::memcpy(target + to, source + from, n * sizeof(T));
        });
    }

  private:
    template <typename Copy>
    std::uint64_t move(std::uint64_t wanted, Copy copy) {
        std::uint64_t moved = 0;
        while (moved < wanted && !scan.done()) {
            const std::uint64_t run = scan.run_width();
            std::uint64_t n = run - used;
            if (n > wanted - moved) n = wanted - moved;
            copy(scan.position() + used, moved, n);
            moved += n;
            used += n;
            if (used == run) {
                used = 0;
                scan.next_run();
            }
        }
        return moved;
    }
};

}  // namespace wattwerk::WATTWERK_ISA
