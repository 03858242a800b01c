// The Python module: checks, memory, the choice of the instruction set. No arithmetic.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "codec.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace wattwerk {
namespace {

template <typename T>
using Input = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

const Kernels* best_kernels() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2"))
        return &kernels_avx512();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma"))
        return &kernels_avx2();
    return &kernels_scalar();
#elif defined(__aarch64__)
    return &kernels_neon();  // every such processor has it
#else
    return &kernels_scalar();
#endif
}

const Kernels* kernels = best_kernels();

void set_simd(const std::string& name) {
    const Kernels* const best = best_kernels();
#if defined(__x86_64__)
    const Kernels* const known[] = {&kernels_scalar(), &kernels_avx2(), &kernels_avx512()};
#elif defined(__aarch64__)
    const Kernels* const known[] = {&kernels_scalar(), &kernels_neon()};
#else
    const Kernels* const known[] = {&kernels_scalar()};
#endif
    for (const Kernels* each : known) {
        if (name == each->name) {
            kernels = each;
            return;
        }
        if (each == best) break;  // what follows needs instructions that are not here
    }
    throw std::invalid_argument("this machine has no kernels named '" + name + "'");
}

void check(Fault fault) {
    switch (fault) {
        case Fault::none: return;
        case Fault::memory: throw std::bad_alloc();
        case Fault::range:
            throw std::invalid_argument("a value is not finite, or more than two thousand million steps away from zero");
        case Fault::unreachable: throw StreamError("a level that this trellis, codebook or history does not have");
        case Fault::overrun: throw StreamError("the payload ends before its last value");
        case Fault::overflow: throw StreamError("a level does not fit into 32 bits");
        case Fault::entry_point: throw StreamError("the entry points do not fit the payload");
    }
}

// Memory of an array; a large one begins at a large page, so that the system hands it out in few pieces.
void* new_memory(std::size_t size) {
#if defined(__linux__)
    constexpr std::size_t kLargePage = std::size_t{1} << 21;
    if (size >= 2 * kLargePage) {
        void* const data = std::aligned_alloc(kLargePage, (size + kLargePage - 1) & ~(kLargePage - 1));
        if (data != nullptr) madvise(data, size, MADV_HUGEPAGE);
        return data;
    }
#endif
    return std::malloc(size + 1);
}

template <typename T>
Output<T> new_array(std::size_t count) {
    auto* data = static_cast<T*>(new_memory(count * sizeof(T)));
    if (data == nullptr) throw std::bad_alloc();
    return Output<T>(data, {count}, nb::capsule(data, [](void* memory) noexcept { std::free(memory); }));
}

// Runs pieces on threads; each takes the next one that is left.
void run_on_threads(const Parallel& self, std::size_t count, void (*body)(void*, std::size_t), void* argument) {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        for (std::size_t index; (index = next.fetch_add(1)) < count;) body(argument, index);
    };
    std::vector<std::thread> helpers;
    for (unsigned index = 1; index < self.threads && index < count; ++index) {
        try {
            helpers.emplace_back(work);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: those that are there do it all
        }
    }
    work();
    for (std::thread& helper : helpers) helper.join();
}

Parallel parallel_of(unsigned threads) { return {threads < 1 ? 1 : threads > 256 ? 256 : threads, run_on_threads}; }

struct Buffer {
    EncoderState state;
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(state.out.data); }
    nb::bytes bytes() const { return nb::bytes(state.out.data, state.out.size); }
};

void add_side_inputs(TensorSpec& spec, const std::optional<Input<std::int8_t>>& history,
                     const std::optional<Input<std::int32_t>>& base) {
    if ((history && history->size() != spec.count) || (base && base->size() != spec.count))
        throw std::invalid_argument("history and base have as many values as the tensor");
    if (history) spec.history = history->data();
    if (base) spec.base = base->data();
}

Output<std::int32_t> quantise(Input<float> values, std::uint64_t width, float step, bool dependent, int scan_order,
                              double rate_weight, std::uint32_t unary) {
    const TensorSpec spec = make_spec(values.size(), width, 1, dependent, unary, scan_order, false, false, 0, 0);
    const QuantiseSpec quantising = make_quantising(spec, step, rate_weight);
    Output<std::int32_t> levels = new_array<std::int32_t>(values.size());
    std::int32_t* const out = levels.data();
    Fault fault;
    {
        nb::gil_scoped_release released;
        fault = kernels->quantise(values.data(), out, quantising);
    }
    check(fault);
    return levels;
}

Output<float> dequantise(Input<std::int32_t> levels, float step) {
    Output<float> values = new_array<float>(levels.size());
    float* const out = values.data();
    const std::int32_t* const in = levels.data();
    nb::gil_scoped_release released;
    for (std::size_t index = 0; index < levels.size(); ++index) out[index] = static_cast<float>(in[index]) * step;
    return values;
}

float largest_magnitude(Input<float> values) {
    nb::gil_scoped_release released;
    return kernels->largest_magnitude(values.data(), values.size());
}

class Encoder {
  public:
    void bypass(std::int64_t value, std::uint32_t bits) {
        need_open();
        if (bits == 0 || bits > 32) throw std::invalid_argument("1 to 32 bits at a time");
        check(kernels->bypass(buffer_.state, static_cast<std::uint32_t>(value), bits));
    }

    std::uint32_t tensor(Input<std::int32_t> levels, std::uint64_t width, int profile, bool dependent,
                         std::uint32_t unary, int scan_order, bool row_skip, bool parent,
                         const std::optional<Input<std::int8_t>>& history, const std::optional<Input<std::int32_t>>& base,
                         std::uint32_t codebook_size, std::uint32_t codebook_zero,
                         const std::optional<nb::bytes>& parameter_sets, std::uint64_t search_limit,
                         bool force_row_skip, unsigned threads) {
        need_open();
        TensorSpec spec = make_spec(levels.size(), width, profile, dependent, unary, scan_order, row_skip, parent,
                                    codebook_size, codebook_zero);
        spec.force_row_skip = force_row_skip;
        add_side_inputs(spec, history, base);
        check_trellis(levels.data(), spec);
        const std::uint8_t* sets = parameter_sets ? given_sets(*parameter_sets) : nullptr;
        auto chosen = std::make_unique<Chosen>();
        std::vector<EntryPoint> points(block_rows_of(spec));
        chosen->entry_points = points.data();
        Fault fault;
        {
            nb::gil_scoped_release released;
            fault = kernels->encode_levels(buffer_.state, levels.data(), spec, sets, search_limit, parallel_of(threads),
                                           *chosen);
        }
        if (fault == Fault::unreachable) throw std::invalid_argument("a level that this trellis or codebook does not have");
        check(fault);
        points.resize(chosen->entry_point_count);
        points_.push_back(std::move(points));
        return chosen->unary;
    }

    nb::bytes finish() {
        need_open();
        check(kernels->finish(buffer_.state));
        finished_ = true;
        return buffer_.bytes();
    }

    std::vector<Points> entry_points() {
        if (!finished_) throw std::invalid_argument("entry points are known once the codeword is finished");
        std::vector<Points> all;
        for (auto& points : points_) settle(buffer_.state, points, all.emplace_back());
        return all;
    }

  private:
    void need_open() const {
        if (finished_) throw std::invalid_argument("the codeword is finished");
    }

    const std::uint8_t* given_sets(const nb::bytes& sets) {
        // one for each context that is told; what is missing is the first set
        sets_.assign(kMaxContexts, 0);
        if (sets.size() > kMaxContexts) throw std::invalid_argument("more parameter sets than contexts");
        const auto* from = static_cast<const std::uint8_t*>(sets.data());
        for (std::size_t index = 0; index < sets.size(); ++index) {
            if (from[index] >= kParameterSets) throw std::invalid_argument("a parameter set is 0 to 8");
            sets_[index] = from[index];
        }
        return sets_.data();
    }

    Buffer buffer_;
    std::vector<std::vector<EntryPoint>> points_;
    std::vector<std::uint8_t> sets_;
    bool finished_ = false;
};

std::tuple<nb::bytes, std::uint32_t, Points> encode_values(Input<float> values, std::uint64_t width, float step,
                                                           std::int64_t qp_delta, std::uint32_t qp_bits, bool dependent,
                                                           std::uint32_t unary, int scan_order, bool row_skip,
                                                           int profile, bool parent, std::uint64_t search_limit,
                                                           double rate_weight, unsigned threads) {
    if (qp_bits > 32) throw std::invalid_argument("32 bits of the quantisation parameter at most");
    const TensorSpec spec =
        make_spec(values.size(), width, profile, dependent, unary, scan_order, row_skip, parent, 0, 0);
    const QuantiseSpec quantising = make_quantising(spec, step, rate_weight);
    Buffer buffer;
    auto chosen = std::make_unique<Chosen>();
    std::vector<EntryPoint> points(block_rows_of(spec));
    chosen->entry_points = points.data();
    Fault fault;
    {
        nb::gil_scoped_release released;
        fault = kernels->encode_values(buffer.state, values.data(), quantising, spec, qp_bits,
                                       static_cast<std::uint32_t>(qp_delta), search_limit, parallel_of(threads), *chosen);
        if (fault == Fault::none) fault = kernels->finish(buffer.state);
    }
    check(fault);
    points.resize(chosen->entry_point_count);
    Points told;
    settle(buffer.state, points, told);
    return {buffer.bytes(), chosen->unary, told};
}

class Decoder {
  public:
    Decoder(nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> data, std::size_t start,
            std::size_t end)
        : data_(data) {
        if (start > end || end > data.size()) throw std::invalid_argument("start and end lie within the data");
        state_ = opened(data.data() + start, data.data() + end);
    }

    std::int64_t bypass(std::uint32_t bits, bool is_signed) {
        if (bits == 0 || bits > 32) throw std::invalid_argument("1 to 32 bits at a time");
        const std::uint32_t value = kernels->read_bypass(state_, bits);
        if (!is_signed || !(value >> (bits - 1))) return value;
        return std::int64_t{value} - (std::int64_t{1} << bits);
    }

    Output<std::int32_t> tensor(std::uint64_t count, std::uint64_t width, int profile, bool dependent,
                                std::uint32_t unary, int scan_order, const Points& entry_points, bool parent,
                                const std::optional<Input<std::int8_t>>& history,
                                const std::optional<Input<std::int32_t>>& base, std::uint32_t codebook_size,
                                std::uint32_t codebook_zero, float step, unsigned threads) {
        if (unary == 0) throw std::invalid_argument("the unary length is 1 at least");
        TensorSpec spec = make_spec(count, width, profile, dependent, unary, scan_order, true, parent, codebook_size,
                                    codebook_zero);
        add_side_inputs(spec, history, base);
        spec.step = step;
        std::vector<EntryPoint> points;
        for (const auto& [value, state, offset] : entry_points) points.push_back({value & 255, state, offset});
        Output<std::int32_t> levels = new_array<std::int32_t>(count);
        std::int32_t* const out = levels.data();
        Fault fault;
        {
            nb::gil_scoped_release released;
            fault = kernels->decode(state_, out, spec, points.data(), points.size(), parallel_of(threads), sets_);
        }
        check(fault);
        spec_ = spec;
        return levels;
    }

    std::size_t finish() { return bytes_read(state_); }

    nb::bytes parameter_sets() const {
        std::vector<std::uint8_t> sets;
        std::uint16_t contexts[kMaxContexts];
        const std::size_t count = kernels->told_contexts(spec_, sets_.history, contexts);
        for (std::size_t index = 0; index < count; ++index) sets.push_back(sets_.set[contexts[index]]);
        return nb::bytes(sets.data(), sets.size());
    }

  private:
    nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> data_;
    DecoderState state_;
    TensorSpec spec_;
    ParameterChoice sets_{};
};

}  // namespace
}  // namespace wattwerk

NB_MODULE(_native, module) {
    using namespace wattwerk;
    nb::exception<StreamError>(module, "StreamError", PyExc_ValueError);
    module.def("simd", [] { return std::string(kernels->name); });
    module.def("set_simd", &set_simd, "name"_a);
    module.def("quantise", &quantise, "values"_a, nb::kw_only(), "width"_a, "step"_a, "dependent"_a, "scan_order"_a = 0,
               "rate_weight"_a = 0.0, "unary_length"_a = 10);
    module.def("largest_magnitude", &largest_magnitude, "values"_a);
    module.def("dequantise", &dequantise, "levels"_a, "step"_a);
    module.def("encode_values", &encode_values, "values"_a, nb::kw_only(), "width"_a, "step"_a, "qp_delta"_a, "qp_bits"_a,
               "dependent"_a, "unary_length"_a = 0, "scan_order"_a = 0, "row_skip"_a = true, "profile"_a = 1,
               "parent"_a = false, "search_limit"_a = 65536, "rate_weight"_a = 0.0, "threads"_a = 1);
    nb::class_<Encoder>(module, "Encoder")
        .def(nb::init<>())
        .def("bypass", &Encoder::bypass, "value"_a, "bits"_a)
        .def("tensor", &Encoder::tensor, "levels"_a, nb::kw_only(), "width"_a, "profile"_a = 1, "dependent"_a,
             "unary_length"_a, "scan_order"_a = 0, "row_skip"_a = true, "parent"_a = false, "history"_a = nb::none(),
             "base"_a = nb::none(), "codebook_size"_a = 0, "codebook_zero"_a = 0, "parameter_sets"_a = nb::none(),
             "search_limit"_a = 65536, "force_row_skip"_a = false, "threads"_a = 1)
        .def("finish", &Encoder::finish)
        .def_prop_ro("entry_points", &Encoder::entry_points);
    nb::class_<Decoder>(module, "Decoder")
        .def(nb::init<nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>, std::size_t,
                      std::size_t>(),
             "data"_a, "start"_a, "end"_a)
        .def("bypass", &Decoder::bypass, "bits"_a, "signed"_a)
        .def("tensor", &Decoder::tensor, "count"_a, nb::kw_only(), "width"_a, "profile"_a = 1, "dependent"_a,
             "unary_length"_a, "scan_order"_a = 0, "entry_points"_a = Points{}, "parent"_a = false,
             "history"_a = nb::none(), "base"_a = nb::none(), "codebook_size"_a = 0, "codebook_zero"_a = 0, "step"_a = 0.0f,
             "threads"_a = 1)
        .def("finish", &Decoder::finish)
        .def_prop_ro("parameter_sets", &Decoder::parameter_sets);
}
