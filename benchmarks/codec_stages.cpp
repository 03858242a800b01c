// Where the codec's nanoseconds go: each step of encoding and decoding by itself, on one thread.
//
//     g++ -O3 -std=c++20 -ffp-contract=off -fno-math-errno -march=x86-64-v4 -DWATTWERK_ISA=avx512 -Isrc/native
//         benchmarks/codec_stages.cpp -o build/codec_stages && build/codec_stages
//
// (one command; -march=x86-64-v3 -DWATTWERK_ISA=avx2 for machines without AVX-512). The weights are a million Laplacian ones;
// each line is the least of several repeats, in processor time.
#include <cstdio>
#include <ctime>
#include <memory>
#include <random>
#include <vector>

#include "kernels.cpp"

namespace wattwerk::WATTWERK_ISA {
namespace {

constexpr int kRepeats = 9;

double seconds() {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Nanoseconds for each of `count` things that a call of `work` does; `prepare` is not counted.
template <typename Prepare, typename Work>
double nanoseconds(std::size_t count, Prepare prepare, Work work) {
    double least = 1e9;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
        prepare();
        const double start = seconds();
        work();
        const double taken = seconds() - start;
        least = taken < least ? taken : least;
    }
    return 1e9 * least / static_cast<double>(count);
}

struct Stages {
    std::vector<Operation> operations;
    std::vector<Context> contexts;
    std::size_t row = 0;

    explicit Stages(std::uint32_t unary) : contexts(Layout{unary}.size()) {}

    void restart() {
        for (auto& context : contexts) start(context, 0);
        start_bypass(contexts.back());
    }
};

void measure(const std::vector<float>& values, float step, bool dependent) {
    QuantiseSpec quantising;
    quantising.count = values.size();
    quantising.width = 1024;
    quantising.step = step;
    quantising.dependent = dependent;
    std::vector<std::int32_t> levels(values.size());
    const auto nothing = [] {};
    const double quantised =
        nanoseconds(values.size(), nothing, [&] { quantise(values.data(), levels.data(), quantising); });

    Histogram histogram;
    histogram.add(levels.data(), levels.size(), dependent);
    TensorSpec spec;
    spec.count = values.size();
    spec.width = 1024;
    spec.dependent = dependent;
    spec.unary = choose_unary(histogram, kBinWeight);
    Stages stages(spec.unary);
    auto binariser = std::make_unique<Binariser>(spec);
    const auto binarise = [&](auto sink) {
        binariser->restart();
        binariser->run(levels.data(), levels.size(), nullptr, sink);
        binariser->drain(sink);
    };
    binarise([&](const Operation* from, std::size_t count) {
        stages.operations.insert(stages.operations.end(), from, from + count);
        return true;
    });
    const std::size_t count = stages.operations.size();
    const double binarised =
        nanoseconds(values.size(), nothing, [&] { binarise([](const Operation*, std::size_t) { return true; }); });
    auto search = std::make_unique<SetSearch>(Layout{spec.unary}.size(), 1.0);
    const double searched = nanoseconds(count, nothing, [&] { search->observe(stages.operations.data(), count); });

    std::vector<Trace> traces(count / kCodedTogether + 1);
    EncoderState state;
    const auto pieces = [&](auto each) {
        for (std::size_t at = 0, index = 0; at < count; at += kCodedTogether, ++index)
            each(stages.operations.data() + at, count - at < kCodedTogether ? count - at : kCodedTogether, traces[index]);
    };
    const auto restart = [&] {
        stages.restart();
        std::free(state.out.data);
        state = EncoderState{};
        reserve(state.out, 4 * count + 64);
    };
    const double followed = nanoseconds(count, restart, [&] {
        pieces([&](const Operation* from, std::size_t n, Trace& trace) { follow(state, stages.contexts.data(), from, n, trace); });
    });
    const double emitted = nanoseconds(count, restart, [&] {
        pieces([&](const Operation* from, std::size_t n, Trace& trace) { emit(state, from, trace, n); });
    });

    const Parallel alone{1, [](const Parallel&, std::size_t n, void (*body)(void*, std::size_t), void* argument) {
                             for (std::size_t index = 0; index < n; ++index) body(argument, index);
                         }};
    auto chosen = std::make_unique<Chosen>();
    encode_levels((restart(), state), levels.data(), spec, nullptr, 1, alone, *chosen);
    finish_encoder(state);
    std::vector<std::int32_t> decoded(levels.size());
    DecoderState reader;
    const auto open = [&] {
        reader = DecoderState{};
        reader.begin = reader.next = state.out.data;
        reader.end = state.out.data + state.out.size;
        reader.range = 510;
        refill(reader);
        refill(reader);
    };
    const double read = nanoseconds(values.size(), open, [&] {
        decode(reader, decoded.data(), spec, nullptr, 0, alone, chosen->sets);
    });
    const double weights = static_cast<double>(values.size());
    std::printf("%s, %s quantisation, %.2f bits and %.2f operations a weight%s\n", WATTWERK_TEXT(WATTWERK_ISA),
                dependent ? "dependent" : "uniform", 8.0 * static_cast<double>(state.out.size) / weights,
                static_cast<double>(count) / weights, decoded == levels ? "" : " (DECODED WRONGLY)");
    std::printf("  quantisation %5.2f ns a weight\n  binarisation %5.2f ns a weight\n", quantised, binarised);
    std::printf("  search       %5.2f ns an operation looked at\n", searched);
    std::printf("  contexts     %5.2f ns an operation\n  code         %5.2f ns an operation\n", followed, emitted);
    std::printf("  decoding     %5.2f ns a weight, %.2f ns an operation\n", read, read * weights / static_cast<double>(count));
    std::free(state.out.data);
}

}  // namespace
}  // namespace wattwerk::WATTWERK_ISA

int main() {
    std::mt19937 random(1);
    std::exponential_distribution<float> size(50.0f);
    std::vector<float> values(std::size_t{1} << 20);
    for (float& value : values) value = random() & 1 ? size(random) : -size(random);
    for (const float step : {0.001953125f, 0.00390625f, 0.03125f})
        for (const bool dependent : {false, true}) wattwerk::WATTWERK_ISA::measure(values, step, dependent);
}
