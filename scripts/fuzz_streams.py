"""Fuzz reading of whole streams: `PYTHONPATH=. python scripts/fuzz_streams.py SEED SECONDS`.

Each damaged stream has to give arrays or a BitstreamError with the offset, within a second and within a bound of
memory. The first one that does not is written to build/fuzz/stream-SEED.nnc, and the script ends with its traceback.
"""

from __future__ import annotations

import collections
import random
import resource
import sys
import time
from pathlib import Path

from tests.codec.fuzzing import FEW, READERS, check, sound_streams
from tests.codec.stream_mutations import Mutator

ROOM = 1 << 30  # beyond what the process takes at the start: the default bound on values is 64 MiB of float32


def address_space() -> int:
    """Return the size of this process's address space in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def main(seed: int, seconds: float) -> None:
    """Try streams until the time is over."""
    mutators = {reader: Mutator(sound_streams(reader), seed + index) for index, reader in enumerate(READERS)}
    chance = random.Random(seed)
    limit = address_space() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    end, slowest = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        reader = chance.choice(list(READERS))
        data = mutators[reader].stream()
        bound = FEW if chance.random() < 0.9 else None
        start = time.process_time()
        try:
            counts[reader, check(reader, data, bound)] += 1
        except BaseException:
            found = Path(f"build/fuzz/stream-{seed}.nnc")
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(data)
            print(f"{reader}, bound {bound}: {found}", file=sys.stderr)
            raise
        slowest = max(slowest, time.process_time() - start)
    for (reader, sound), count in sorted(counts.items()):
        print(f"{reader}: {count} {'read' if sound else 'refused'}")
    print(f"{sum(counts.values())} streams, the slowest took {slowest:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
