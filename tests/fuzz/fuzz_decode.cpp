// Any payload under any arguments: every instruction set gives the same levels or the same fault.
//
// Bytes: number of tensors, bits without a model before each and whether values are wanted; for each tensor its arguments,
// entry points and sides; what is left is the payload.
#include "common.h"

namespace fuzz {
namespace {

struct Outcome {
    Fault fault = Fault::none;
    std::vector<std::uint32_t> bypass;
    std::vector<std::int32_t> levels;
    std::vector<std::uint8_t> sets;
    DecoderState state;
    std::size_t bytes = 0;
};

void read_points(Input& in, Tensor& tensor) {
    const std::uint8_t mode = in.byte();
    const std::size_t rows = block_rows_of(tensor.spec);
    const std::size_t fitting = rows > 0 ? rows - 1 : 0;
    tensor.points.resize(mode & 1 ? mode >> 1 : fitting);
    for (EntryPoint& point : tensor.points) {
        const std::uint32_t word = in.word(4);
        const std::uint64_t offset = word >> 11;
        // the largest offsets stand for those at the end of what the syntax can carry
        point = {word >> 3 & 255, word & 7, offset > 0x1fff00 ? offset - 0x200000 : offset};
    }
}

Outcome decode(const Kernels& kernels, std::vector<Tensor>& tensors, std::uint32_t bypass_bits,
               const std::vector<std::uint8_t>& payload) {
    Outcome outcome;
    outcome.state = opened(payload.data(), payload.data() + payload.size());
    for (Tensor& tensor : tensors) {
        if (bypass_bits > 0) outcome.bypass.push_back(kernels.read_bypass(outcome.state, bypass_bits));
        auto levels = exactly<std::int32_t>(tensor.spec.count, 0x5a5a5a5a);
        ParameterChoice sets{};
        outcome.fault = kernels.decode(outcome.state, levels.data(), tensor.spec, tensor.points.data(),
                                       tensor.points.size(), kSerial, sets);
        if (outcome.fault != Fault::none) return outcome;
        outcome.levels.insert(outcome.levels.end(), levels.begin(), levels.end());
        std::uint16_t contexts[kMaxContexts];
        const std::size_t told = kernels.told_contexts(tensor.spec, sets.history, contexts);
        for (std::size_t index = 0; index < told; ++index) outcome.sets.push_back(sets.set[contexts[index]]);
    }
    try {
        outcome.bytes = bytes_read(outcome.state);
        REQUIRE(outcome.bytes <= payload.size());
    } catch (const StreamError&) {
    }
    return outcome;
}

void compare(const Outcome& one, const Outcome& other) {
    REQUIRE(one.fault == other.fault);
    REQUIRE(one.bypass == other.bypass);
    REQUIRE(one.levels == other.levels);
    REQUIRE(one.sets == other.sets);
    REQUIRE(one.bytes == other.bytes);
    REQUIRE(one.state.next == other.state.next && one.state.missing == other.state.missing);
    REQUIRE(one.state.value == other.state.value && one.state.range == other.state.range);
}

void check_levels(const Outcome& outcome, const std::vector<Tensor>& tensors) {
    std::size_t index = 0;
    for (const Tensor& tensor : tensors) {
        const TensorSpec& spec = tensor.spec;
        for (const std::size_t end = index + spec.count; index < end && index < outcome.levels.size(); ++index) {
            const std::int64_t level = outcome.levels[index];
            if (spec.dependent) REQUIRE(level >= -0x7ffffffe && level <= 0x7ffffffe);
            if (!spec.dependent && spec.profile1 && spec.codebook_size > 0)
                REQUIRE(level >= -std::int64_t{spec.codebook_zero} &&
                        level < std::int64_t{spec.codebook_size} - spec.codebook_zero);
        }
    }
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace fuzz;
    Input in(data, size);
    std::vector<Tensor> tensors(1 + in.byte() % 3);
    const std::uint32_t mode = in.byte(), bypass_bits = mode % 33;
    const bool as_values = mode >= 198;
    for (Tensor& tensor : tensors) {
        read_spec(in, tensor, kMostValues);
        if (tensor.spec.unary == 0) tensor.spec.unary = kMaxUnary;
        if (as_values) tensor.spec.step = 0.03125f;
        read_points(in, tensor);
        read_sides(in, tensor);
    }
    auto payload = exactly<std::uint8_t>(in.left());
    if (in.left() > 0) std::memcpy(payload.data(), in.rest(), in.left());
    const Outcome first = decode(*kernels()[0], tensors, bypass_bits, payload);
    if (!as_values) check_levels(first, tensors);
    digest.add(&first.fault, 1);
    digest.add(first.levels.data(), first.levels.size());
    digest.add(first.sets.data(), first.sets.size());
    for (std::size_t index = 1; index < kernels().size(); ++index)
        compare(first, decode(*kernels()[index], tensors, bypass_bits, payload));
    return 0;
}
