// From levels to operations of the arithmetic coder.
#pragma once

#include <cstdint>
#include <cstring>

#include "coder.h"
#include "state_vector.h"

namespace wattwerk::WATTWERK_ISA {

constexpr std::uint32_t kLanes = 16;        // operations of one level that are written at once
constexpr std::uint32_t kLongTemplate = 2 * kLanes;  // operations of one level that has a template
constexpr std::uint32_t kTemplates = 192;   // magnitudes that have a template
constexpr std::size_t kBatch = 4096;        // operations after which they are handed on
constexpr std::size_t kGo = 64;             // levels of one go at most
constexpr std::size_t kLongestLevel = kMaxUnary + 40;  // operations of one level at most
constexpr std::size_t kRoom = kGo * kLongestLevel;     // for what the levels of one go may add to them

// What a level's operations depend on besides the level.
struct Neighbourhood {
    std::uint32_t state = 0;      // of the trellis
    std::int32_t previous = 0;    // the level before
    std::int32_t base = 0;        // the co-located level of the parent
    bool history = false;         // history-dependent significance holds here
};

inline std::uint32_t side_of(std::int32_t level) { return level == 0 ? 0u : (level < 0 ? 1u : 2u); }

inline std::uint32_t significance_context(const Layout& layout, const Neighbourhood& at) {
    if (at.history) return 40 + at.state;
    if (at.base != 0) return 24 + 2 * at.state + (at.base > 1 || at.base < -1 ? 1 : 0);
    return layout.significance(at.state, side_of(at.previous));
}

inline std::uint32_t sign_context(const Layout& layout, const Neighbourhood& at) {
    if (at.base != 0) return layout.sign() + (at.base < 0 ? 3 : 4);
    return layout.sign() + side_of(at.previous);
}

inline std::uint32_t greater_context(const Layout& layout, std::int32_t base, bool negative, std::uint32_t index) {
    if (base != 0) {
        const std::uint32_t size = base < 0 ? 0u - static_cast<std::uint32_t>(base) : static_cast<std::uint32_t>(base);
        return layout.greater() + 2 * layout.unary + 2 * index + (size >= index ? 0 : 1);
    }
    return layout.greater() + 2 * index + (negative ? 1 : 0);
}

// The largest magnitude that a codebook allows on a side; -1 without a codebook.
inline std::int64_t limit_of(const TensorSpec& spec, bool negative) {
    if (!spec.profile1 || spec.codebook_size == 0) return -1;
    return negative ? spec.codebook_zero : std::int64_t{spec.codebook_size} - spec.codebook_zero - 1;
}

inline bool one_sided(const TensorSpec& spec) {
    return spec.codebook_size > 0 && (spec.codebook_zero == 0 || spec.codebook_zero == spec.codebook_size - 1);
}

// A codebook with one entry leaves nothing to code.
inline bool silent(const TensorSpec& spec) { return spec.profile1 && spec.codebook_size == 1; }

inline bool has_row_flags(const TensorSpec& spec) {
    return spec.profile1 && spec.width > 1 && spec.count > spec.width && spec.codebook_size != 1;
}

class Binariser {
  public:
    Binariser(const TensorSpec& spec)
        : spec_(spec), layout_{spec.unary}, plain_(spec.base == nullptr && spec.history == nullptr &&
                                                    spec.codebook_size == 0 && spec.unary + 2 < kLanes) {
        if (plain_) prepare();
    }

    // Turns levels into operations and hands full batches on; `positions` are needed where the parent's levels or the
    // history are looked up. False where the sink or a level refuses.
    template <typename Sink>
    bool run(const std::int32_t* levels, std::uint64_t count, const std::uint64_t* positions, Sink&& sink) {
        while (count > 0) {
            const std::uint64_t now = count < kGo ? count : kGo;
            if (!plain_) {
                if (!put_general(levels, now, positions)) return false;
            } else if (now == kGo) {  // a number that the compiler knows, so that nothing is left over from vectors
                spec_.dependent ? put_plain<true>(levels, kGo) : put_plain<false>(levels, kGo);
            } else {
                spec_.dependent ? put_plain<true>(levels, now) : put_plain<false>(levels, now);
            }
            if (used_ >= kBatch && !drain(sink)) return false;
            levels += now;
            if (positions != nullptr) positions += now;
            count -= now;
        }
        return true;
    }

    template <typename Sink>
    bool drain(Sink&& sink) {
        const bool fine = used_ == 0 || sink(operations_, used_);
        used_ = 0;
        return fine;
    }

    void skip_row() {
        if (!spec_.dependent) return;
        // four steps of parity 0 lead back to every state
        for (std::uint64_t step = 0; step < (spec_.width & 3); ++step) at_.state = kTransition[at_.state][0];
    }

    void restart() {
        at_ = {};
        used_ = 0;
    }
    void start_block_row() { at_.previous = 0; }
    void start_at(std::uint32_t state) { at_.state = state; }
    std::uint32_t state() const { return at_.state; }
    Fault fault = Fault::none;

    // Operations of one level in full generality; returns their number, 0 for a level that cannot be coded.
    std::uint32_t spell(std::int32_t level, const Neighbourhood& at, Operation* out);

  private:
    void prepare();

    // In short passes over the levels of one go, of which all but the last have no chain but the trellis' states.
    template <bool kDependent>
    WATTWERK_INLINE void put_plain(const std::int32_t* values, std::uint64_t count) {
        std::int32_t levels[kGo + 1];  // after the one before
        std::uint8_t states[kGo] = {}, magnitudes[kGo];
        std::uint16_t adjustments[kGo];
        levels[0] = at_.previous;
        if (kDependent) follow_states(values, count, states);
        for (std::uint64_t index = 0; index < count; ++index)
            levels[index + 1] = kDependent ? halved(values[index], states[index]) : values[index];
        for (std::uint64_t index = 0; index < count; ++index) {
            const std::uint32_t level = static_cast<std::uint32_t>(levels[index + 1]), negative = level >> 31;
            const std::uint32_t magnitude = (level ^ (0u - negative)) + negative;
            magnitudes[index] = static_cast<std::uint8_t>(magnitude < kTemplates ? magnitude : kTemplates);
            adjustments[index] = static_cast<std::uint16_t>(2 * (3 * states[index] + side_of(levels[index])) + negative);
        }
        Operation* to = operations_ + used_;
        for (std::uint64_t index = 0; index < count; ++index) {
            const std::uint32_t magnitude = magnitudes[index], length = counts_[magnitude];
            if (length != 0) [[likely]] {
                add_lanes(templates_[magnitude], adjustments_[adjustments[index]], to);
                if (length > kLanes) std::memcpy(to + kLanes, templates_[magnitude] + kLanes, kLanes * sizeof *to);
                to += length;
            } else {
                Neighbourhood at;
                at.state = states[index];
                at.previous = levels[index];
                to += spell(levels[index + 1], at, to);
            }
        }
        at_.previous = levels[count];
        used_ = static_cast<std::size_t>(to - operations_);
    }

    // The state that each value is coded in.
    WATTWERK_INLINE void follow_states(const std::int32_t* values, std::uint64_t count, std::uint8_t* states) {
        std::uint8_t parities[kGo];
        for (std::uint64_t index = 0; index < count; ++index)
            parities[index] = static_cast<std::uint8_t>(parities_of(values[index]));
        StateVector state = state_vector(at_.state);
        for (std::uint64_t index = 0; index < count; ++index) {
            states[index] = state_of(state);
            state = step(state, parities[index]);
        }
        at_.state = state_of(state);
    }

    bool put_general(const std::int32_t* levels, std::uint64_t count, const std::uint64_t* positions) {
        for (std::uint64_t index = 0; index < count; ++index) {
            const std::int32_t level = spec_.dependent ? halved(levels[index], at_.state) : levels[index];
            if (spec_.base != nullptr) at_.base = spec_.base[positions[index]];
            if (spec_.history != nullptr) at_.history = spec_.history[positions[index]] == 1;
            if (!silent(spec_)) {
                const std::uint32_t written = spell(level, at_, operations_ + used_);
                if (written == 0) {
                    fault = Fault::unreachable;
                    return false;
                }
                used_ += written;
            }
            at_.previous = level;
            if (spec_.dependent) at_.state = kTransition[at_.state][level & 1];
        }
        return true;
    }

    // The level of the quantiser that a state belongs to.
    static WATTWERK_INLINE std::int32_t halved(std::int32_t level, std::uint32_t state) {
        const std::int32_t odd = static_cast<std::int32_t>(state & 1);
        return (level + (level > 0 ? odd : 0) - (level < 0 ? odd : 0)) >> 1;
    }

    static WATTWERK_INLINE void add_lanes(const Operation* from, const Operation* adjust, Operation* to) {
        // operations are added as numbers: what differs by neighbourhood never carries into the next field
#if defined(__AVX512BW__)  // as one store: two halves are slower
        _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_load_si512(from), _mm512_load_si512(adjust)));
#elif defined(__AVX2__)
        const auto* const left = reinterpret_cast<const __m256i*>(from);
        const auto* const right = reinterpret_cast<const __m256i*>(adjust);
        auto* const sums = reinterpret_cast<__m256i*>(to);
        for (int half = 0; half < 2; ++half)
            _mm256_storeu_si256(sums + half, _mm256_add_epi32(_mm256_load_si256(left + half), _mm256_load_si256(right + half)));
#else
        using Word [[gnu::may_alias]] = std::uint32_t;
        const auto* const __restrict left = reinterpret_cast<const Word*>(from);
        const auto* const __restrict right = reinterpret_cast<const Word*>(adjust);
        auto* const __restrict sums = reinterpret_cast<Word*>(to);
        for (std::uint32_t lane = 0; lane < kLanes; ++lane) sums[lane] = left[lane] + right[lane];
#endif
    }

    const TensorSpec spec_;
    const Layout layout_;
    const bool plain_;
    Neighbourhood at_;
    std::size_t used_ = 0;
    std::uint8_t counts_[kTemplates + 1];  // 0 where there is no template
    alignas(64) Operation templates_[kTemplates][kLongTemplate];
    alignas(64) Operation adjustments_[8 * 3 * 2][kLanes];  // by state, kind of the level before, and sign
    alignas(64) Operation operations_[kBatch + kRoom + kLongTemplate];
};

inline std::uint32_t Binariser::spell(std::int32_t level, const Neighbourhood& at, Operation* out) {
    Operation* const begin = out;
    *out++ = modelled(significance_context(layout_, at), level != 0);
    if (level == 0) return 1;
    const bool negative = level < 0;
    const std::int64_t limit = limit_of(spec_, negative), magnitude = negative ? -std::int64_t{level} : level;
    if (limit >= 0 && magnitude > limit) return 0;
    if (!one_sided(spec_) || !spec_.profile1) *out++ = modelled(sign_context(layout_, at), negative);
    const auto beyond = [limit](std::int64_t reached) { return limit < 0 || limit > reached; };
    if (limit == 1) return static_cast<std::uint32_t>(out - begin);
    std::int64_t reached = 1;
    bool more = true;
    for (std::uint32_t index = 0; more && index < layout_.unary && beyond(reached); ++index) {
        more = magnitude > reached;
        *out++ = modelled(greater_context(layout_, at.base, negative, index), more);
        reached += more;
    }
    if (!more || !beyond(reached)) return static_cast<std::uint32_t>(out - begin);
    std::uint32_t bits = 0;
    for (std::uint32_t index = 0; more && index < 31 && (limit < 0 || limit >= reached + (std::int64_t{1} << bits)); ++index) {
        more = magnitude >= reached + (std::int64_t{1} << bits);
        *out++ = modelled(layout_.remainder() + index, more);
        if (more) reached += std::int64_t{1} << bits++;
    }
    const std::uint32_t rest = static_cast<std::uint32_t>(magnitude - reached);
    for (std::uint32_t left = bits; left > 0;) {
        const std::uint32_t now = left > 8 ? 8 : left;
        left -= now;
        *out++ = unmodelled(layout_.bypass(), (rest >> left) & ((1u << now) - 1), now);
    }
    return static_cast<std::uint32_t>(out - begin);
}

inline void Binariser::prepare() {
    std::memset(templates_, 0, sizeof templates_);
    std::memset(adjustments_, 0, sizeof adjustments_);
    std::memset(counts_, 0, sizeof counts_);
    for (std::uint32_t magnitude = 0; magnitude < kTemplates; ++magnitude) {
        Operation operations[kLongestLevel];
        const std::uint32_t count = spell(static_cast<std::int32_t>(magnitude), Neighbourhood{}, operations);
        if (count > kLongTemplate) continue;
        counts_[magnitude] = static_cast<std::uint8_t>(count);
        std::memcpy(templates_[magnitude], operations, count * sizeof(Operation));
    }
    for (std::uint32_t state = 0; state < 8; ++state)
        for (std::uint32_t side = 0; side < 3; ++side)
            for (std::uint32_t negative = 0; negative < 2; ++negative) {
                Operation* adjust = adjustments_[2 * (3 * state + side) + negative];
                adjust[0] = modelled(layout_.significance(state, side), 0);
                adjust[1] = modelled(side, negative);
                for (std::uint32_t index = 0; index < layout_.unary; ++index) adjust[2 + index] = modelled(negative, 0);
            }
}

}  // namespace wattwerk::WATTWERK_ISA
