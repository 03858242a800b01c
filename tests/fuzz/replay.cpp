// Runs a fuzzer over files, without a fuzzing engine, and prints a digest of all results: it is the same on every machine.
#include <fstream>
#include <iterator>

#include "common.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int count, char** arguments) {
    fuzz::digest.wanted = true;
    for (int index = 1; index < count; ++index) {
        std::ifstream file(arguments[index], std::ios::binary);
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    }
    std::printf("%d inputs, %zu instruction sets, digest %016llx\n", count - 1, fuzz::kernels().size(),
                static_cast<unsigned long long>(fuzz::digest.value));
}
