// Any levels and any values under any arguments: every instruction set writes the same bytes, and they decode to what
// was encoded.
//
// Bytes: mode, limit of the search, number of tensors, bits without a model before each; for each tensor its arguments
// and sides, how its numbers are made, and the numbers.
#include <cmath>

#include "common.h"

#define WATTWERK_ISA fuzzer
#include "scan.h"
#include "tables.h"

namespace fuzz {
namespace {

using fuzzer::kTransition;
using fuzzer::Scan;

constexpr std::uint64_t kFewValues = 1500;  // for most inputs, so that there can be many of them

struct Case {
    Tensor tensor;
    std::vector<std::int32_t> levels;
    std::vector<float> values;
    std::vector<std::uint8_t> sets;
    QuantiseSpec quantising;
    std::uint64_t search_limit = 0;
};

struct Code {
    Fault fault = Fault::none;
    std::vector<std::uint8_t> bytes;
    std::vector<Chosen> chosen;
    std::vector<Points> points;
};

// Numbers for tensors that are larger than the input: mostly small, now and then large.
class Numbers {
  public:
    Numbers(Input& in, std::uint8_t shape) : in_(in), shape_(shape), state_(shape * 0x9e3779b97f4a7c15u + 1) {}

    std::int32_t next() {
        if (in_.left() > 0) {
            const auto value = static_cast<std::int8_t>(in_.byte());
            return value == -128 ? static_cast<std::int32_t>(in_.word(4)) : value;
        }
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        const auto bits = static_cast<std::uint32_t>(state_ >> 32);
        if ((bits & 15) < (shape_ & 15u)) return 0;
        const auto size = static_cast<std::int32_t>(bits >> 8) >> (24 - (shape_ >> 4)) % 31;
        return bits & 128 ? -size : size;
    }

  private:
    Input& in_;
    const std::uint8_t shape_;
    std::uint64_t state_;
};

std::int32_t fitting(std::int32_t number, const TensorSpec& spec) {
    if (spec.profile1 && spec.codebook_size > 0) {
        const std::int64_t size = spec.codebook_size, wrapped = ((number % size) + size) % size;
        return static_cast<std::int32_t>(wrapped - spec.codebook_zero);
    }
    if (!spec.dependent) return number;
    return std::clamp(number, -0x3fffffff, 0x3fffffff);
}

// Levels that the trellis can reach, in the order of coding.
void make_levels(Numbers& numbers, Case& made, bool rows_of_zeros) {
    const TensorSpec& spec = made.tensor.spec;
    made.levels = exactly<std::int32_t>(spec.count);
    Scan scan(spec.count, spec.width, spec.scan_order);
    std::uint32_t state = 0;
    for (; spec.count > 0 && !scan.done(); scan.next_run()) {
        const bool empty = rows_of_zeros && scan.row % 3 != 0;
        for (std::uint64_t index = 0; index < scan.run_width(); ++index) {
            const std::int32_t number = empty || (spec.profile1 && spec.codebook_size == 1) ? 0 : fitting(numbers.next(), spec);
            const std::int32_t sign = (number > 0) - (number < 0);
            made.levels[scan.position() + index] =
                spec.dependent ? 2 * number - sign * static_cast<std::int32_t>(state & 1) : number;
            if (spec.dependent) state = kTransition[state][number & 1];
        }
    }
}

void make_values(Input& in, Numbers& numbers, Case& made) {
    const TensorSpec& spec = made.tensor.spec;
    const std::uint8_t exponent = in.byte(), weight = in.byte(), finer = in.byte();
    const float step = std::ldexp(1.0f + static_cast<float>(finer & 7) / 8, exponent % 200 - 100);
    made.quantising = make_quantising(spec, step, weight < 128 ? 0.0 : std::ldexp(1.0, (weight - 224) / 4));
    made.values = exactly<float>(spec.count);
    for (float& value : made.values) {
        const std::int32_t number = numbers.next();
        if (finer & 128 && number < -1000)
            std::memcpy(&value, &number, sizeof value);
        else
            value = static_cast<float>(number) * step * static_cast<float>(1 + (finer >> 3 & 7)) / 8;
    }
}

Code encode(const Kernels& kernels, const std::vector<Case>& cases, std::uint32_t bypass_bits, bool values) {
    struct Owned : EncoderState {
        ~Owned() { std::free(out.data); }
    } state;
    Code code;
    // one of the instruction sets codes block rows apart: the output has to be the same
    const Parallel& parallel = &kernels == fuzz::kernels().front() ? kSplit : kSerial;
    std::vector<std::vector<EntryPoint>> points;
    for (const Case& each : cases) {
        const TensorSpec& spec = each.tensor.spec;
        Chosen& chosen = code.chosen.emplace_back();
        points.push_back(exactly<EntryPoint>(block_rows_of(spec)));
        chosen.entry_points = points.back().data();
        if (values) {
            code.fault = kernels.encode_values(state, each.values.data(), each.quantising, spec, bypass_bits, 0x9e3779b9,
                                               each.search_limit, parallel, chosen);
        } else {
            if (bypass_bits > 0) kernels.bypass(state, 0x9e3779b9, bypass_bits);
            code.fault = kernels.encode_levels(state, each.levels.data(), spec, each.sets.empty() ? nullptr : each.sets.data(),
                                               each.search_limit, parallel, chosen);
        }
        REQUIRE(chosen.entry_point_count <= points.back().size());
        if (code.fault != Fault::none) return code;
        points.back().resize(chosen.entry_point_count);
    }
    kernels.finish(state);
    for (const auto& each : points) settle(state, each, code.points.emplace_back());
    code.bytes.assign(state.out.data, state.out.data + state.out.size);
    return code;
}

void compare(const Code& one, const Code& other) {
    REQUIRE(one.fault == other.fault);
    if (one.fault != Fault::none) return;
    REQUIRE(one.bytes == other.bytes);
    REQUIRE(one.points == other.points);
    for (std::size_t index = 0; index < one.chosen.size(); ++index) {
        REQUIRE(one.chosen[index].unary == other.chosen[index].unary);
        REQUIRE(std::memcmp(one.chosen[index].sets.set, other.chosen[index].sets.set, kMaxContexts) == 0);
    }
}

void check_sets(const Kernels& kernels, const TensorSpec& spec, const ParameterChoice& decoded, const ParameterChoice& chosen) {
    std::uint16_t contexts[kMaxContexts];
    const std::size_t told = kernels.told_contexts(spec, decoded.history, contexts);
    for (std::size_t index = 0; index < told; ++index)
        REQUIRE(decoded.set[contexts[index]] == chosen.set[contexts[index]]);
}

// Row flags in blocks move the dependent quantiser's trellis in a way that levels cannot follow.
bool distorts(const TensorSpec& spec) { return spec.force_row_skip && spec.dependent && spec.scan_order > 0; }

void decode(const Kernels& kernels, const std::vector<Case>& cases, std::uint32_t bypass_bits, const Code& code) {
    DecoderState state = opened(code.bytes.data(), code.bytes.data() + code.bytes.size());
    for (std::size_t index = 0; index < cases.size(); ++index) {
        TensorSpec spec = cases[index].tensor.spec;
        spec.unary = code.chosen[index].unary;
        REQUIRE(spec.unary >= 1 && spec.unary <= kMaxUnary);
        if (bypass_bits > 0)
            REQUIRE(kernels.read_bypass(state, bypass_bits) ==
                    (0x9e3779b9 & (bypass_bits == 32 ? 0xffffffffu : (1u << bypass_bits) - 1)));
        std::vector<EntryPoint> points;
        for (const auto& [value, trellis, offset] : code.points[index]) {
            REQUIRE(value < 256 && trellis < 8);
            points.push_back({value, trellis, offset});
        }
        auto levels = exactly<std::int32_t>(spec.count);
        ParameterChoice sets{};
        REQUIRE(kernels.decode(state, levels.data(), spec, points.data(), points.size(), kSerial, sets) == Fault::none);
        if (!distorts(spec)) REQUIRE(levels == cases[index].levels);
        check_sets(kernels, spec, sets, code.chosen[index].sets);
    }
    REQUIRE(bytes_read(state) == code.bytes.size());
}

// Levels of values: the same ones everywhere, and near to the values where nothing but the error counts.
bool quantise(Case& made) {
    const TensorSpec& spec = made.tensor.spec;
    made.levels = exactly<std::int32_t>(spec.count);
    const Fault fault = kernels()[0]->quantise(made.values.data(), made.levels.data(), made.quantising);
    for (std::size_t index = 1; index < kernels().size(); ++index) {
        auto levels = exactly<std::int32_t>(spec.count);
        REQUIRE(kernels()[index]->quantise(made.values.data(), levels.data(), made.quantising) == fault);
        if (fault == Fault::none) REQUIRE(levels == made.levels);
    }
    if (fault != Fault::none) return false;
    for (std::size_t index = 0; made.quantising.rate_weight == 0 && index < spec.count; ++index) {
        const double exact = static_cast<double>(made.values[index]) / made.quantising.step;
        const double error = std::fabs(exact - made.levels[index]), rounding = std::fabs(exact) / (1 << 22);
        REQUIRE(error <= (spec.dependent ? 3.0 : 0.5) + 1e-6 + rounding);
    }
    return true;
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace fuzz;
    Input in(data, size);
    const std::uint8_t mode = in.byte();
    const bool values = mode & 1, given_sets = mode & 2, rows_of_zeros = mode & 4;
    const std::uint64_t search_limit = mode & 8 ? in.word(2) : 65536;
    const std::uint64_t most_values = mode >= 0xf0 ? kMostValues : kFewValues;
    std::vector<Case> cases(1 + in.byte() % 3);
    const std::uint32_t bypass_bits = in.byte() % 33;
    for (Case& each : cases) {
        read_spec(in, each.tensor, most_values);
        TensorSpec& spec = each.tensor.spec;
        if (values) {  // values have neither codebook nor sides
            spec.codebook_size = spec.codebook_zero = 0;
            spec.force_row_skip = false;
            each.tensor.base.clear();
            each.tensor.history.clear();
        }
        read_sides(in, each.tensor);
        each.search_limit = search_limit;
        if (given_sets && !values) {
            each.sets.assign(kMaxContexts, 0);
            for (int index = 0; index < 64; ++index) each.sets[index] = in.byte() % kParameterSets;
        }
        const std::uint8_t shape = in.byte();
        Numbers numbers(in, shape);
        if (values)
            make_values(in, numbers, each);
        else
            make_levels(numbers, each, rows_of_zeros);
        if (values && !quantise(each)) {
            Chosen chosen;
            auto points = exactly<EntryPoint>(block_rows_of(spec));
            for (const Kernels* kernel : kernels()) {
                EncoderState state;
                chosen.entry_points = points.data();
                chosen.entry_point_count = 0;
                const Fault fault = kernel->encode_values(state, each.values.data(), each.quantising, spec, bypass_bits, 0,
                                                          search_limit, kSplit, chosen);
                std::free(state.out.data);
                REQUIRE(fault == Fault::range);
            }
            return 0;
        }
        check_trellis(each.levels.data(), spec);
    }
    const Code first = encode(*kernels()[0], cases, bypass_bits, values);
    for (std::size_t index = 1; index < kernels().size(); ++index)
        compare(first, encode(*kernels()[index], cases, bypass_bits, values));
    const auto any_distorts = [&] {
        return std::any_of(cases.begin(), cases.end(), [](const Case& each) { return distorts(each.tensor.spec); });
    };
    if (first.fault == Fault::unreachable && any_distorts()) return 0;  // a codebook may lack the level one further
    REQUIRE(first.fault == Fault::none);
    digest.add(first.bytes.data(), first.bytes.size());
    decode(*kernels()[size % kernels().size()], cases, bypass_bits, first);
    return 0;
}
