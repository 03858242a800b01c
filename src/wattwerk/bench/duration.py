"""How long a configuration takes: the loops of the worker as a formula, and iterations cut so that a limit is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.scenario import Procedure

#: The fewest untimed and timed iterations that a limit of time may leave.
LEAST_WARMUP: Final = 2
LEAST_ITERATIONS: Final = 4
#: Before each of the four blocks of timed iterations so many fast ones let the caches settle.
SETTLING: Final = 2
BLOCKS: Final = 4
#: A model that is this slow fills the caches anew in each iteration anyway.
SETTLES_BELOW_S: Final = 0.1

#: What has begun may take so many times its limit, since loading it again elsewhere would cost more.
OVERRUN: Final = 1.5

_WINDOWS_EXTRA_S: Final = 0.5
_QUIET_S: Final = 0.3
_RESTS: Final = 3


class TooSlowError(Exception):
    """Tell that a configuration would take much longer than its limit, and how long an iteration took in seconds."""

    def __init__(self, iteration_s: float, limit_s: float) -> None:
        super().__init__(
            f"an iteration took {iteration_s:.3g} s, so that measuring takes longer than max_time_s = {limit_s:g}"
        )
        self.iteration_s = iteration_s


class Counts(msgspec.Struct, frozen=True):
    """How many iterations are made before the energy windows.

    Attributes:
        warmup: Untimed ones.
        iterations: Timed ones.
        settling: Untimed ones before each block of timed ones.
    """

    warmup: int
    iterations: int
    settling: int

    @property
    def calls(self) -> int:
        """All of them."""
        return self.warmup + self.iterations + BLOCKS * self.settling


def check_fits(procedure: Procedure, iteration_s: float) -> None:
    """Refuse what would take much longer than its limit, now that the time of an iteration is known.

    Raises:
        TooSlowError: Even with the fewest iterations.
    """
    limit_s = procedure.max_time_s
    if limit_s and least_s(procedure, [iteration_s]) > OVERRUN * limit_s:
        raise TooSlowError(iteration_s, limit_s)


def fitted(procedure: Procedure, iteration_s: float, loops: int = 1) -> Counts:
    """Return how many iterations are made of a model whose iteration takes so long.

    A slow model gets the numbers of slow ones. Where ``max_time_s`` would not hold, timed iterations are cut, then
    untimed ones; never below ``LEAST_ITERATIONS`` and ``LEAST_WARMUP``.

    Args:
        procedure: What was asked for.
        iteration_s: How long an iteration takes, in seconds.
        loops: How many times all loops run: once, and once more for each phase of a pipeline.
    """
    slow = iteration_s > procedure.slow_above_s
    warmup = procedure.slow_warmup if slow else procedure.warmup
    iterations = procedure.slow_iterations if slow else procedure.iterations
    settling = SETTLING if iteration_s < SETTLES_BELOW_S else 0
    if not procedure.max_time_s or iteration_s <= 0:
        return Counts(warmup, iterations, settling)
    room_s = (procedure.max_time_s - rests_s(procedure)) / loops - windows_s(procedure, iteration_s)
    calls = int(room_s / iteration_s)
    iterations = min(iterations, max(LEAST_ITERATIONS, calls - warmup - BLOCKS * settling))
    warmup = min(warmup, max(LEAST_WARMUP, calls - iterations - BLOCKS * settling))
    return Counts(warmup, iterations, settling)


def windows_s(procedure: Procedure, iteration_s: float) -> float:
    """Return how long all energy windows take together: each has at least one iteration."""
    return max(procedure.windows * procedure.window_s + _WINDOWS_EXTRA_S, procedure.windows * iteration_s)


def measuring_s(procedure: Procedure, iteration_s: float, loops: int = 1) -> float:
    """Return how long measuring takes, without loading the model; the arguments are those of ``fitted``."""
    return rests_s(procedure) + loops * loop_s(procedure, iteration_s, loops)


def loop_s(procedure: Procedure, iteration_s: float, loops: int = 1) -> float:
    """Return how long warm-up, timed iterations and energy windows take once."""
    counts = fitted(procedure, iteration_s, loops)
    warmup_s = max(counts.warmup * iteration_s, procedure.warmup_s)
    return warmup_s + (counts.calls - counts.warmup) * iteration_s + windows_s(procedure, iteration_s)


def least_s(procedure: Procedure, times_s: Sequence[float]) -> float:
    """Return how long measuring takes with the fewest iterations that a limit may leave.

    Args:
        procedure: What was asked for.
        times_s: The time of an iteration, in seconds; of a pipeline, of the whole and of each phase.
    """
    tight = msgspec.structs.replace(procedure, max_time_s=1e-9)
    return rests_s(procedure) + sum(loop_s(tight, each) for each in times_s)


def rests_s(procedure: Procedure) -> float:
    """Return how long all idle measurements of a configuration take, in seconds."""
    return _RESTS * (procedure.idle_s + _QUIET_S)
