from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wattwerk.meters.tick import Edge, TickLock

MS = 1_000_000


class World:
    """A clock that only moves when someone sleeps or reads, and a counter that ticks by it."""

    def __init__(self, tick_ms: float = 100.0, jitter_ms: float = 0.0, seed: int = 0, read_ms: float = 0.05) -> None:
        rng = np.random.default_rng(seed)
        steps = tick_ms + rng.uniform(-jitter_ms, jitter_ms, 400)
        self.edges = ((37 + np.cumsum(steps)) * MS).astype(np.int64)
        self.now = 1
        self.reads = 0
        self._read_ns = round(read_ms * MS)

    def clock(self) -> int:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move the time."""
        self.now += round(seconds * 1e9)

    def read(self) -> float:
        """Return how many ticks have passed; takes time, too."""
        self.now += self._read_ns
        self.reads += 1
        return float(np.searchsorted(self.edges, self.now, "right"))


def follow(world: World, lock: TickLock, period_ms: int, samples: int) -> list[Edge | None]:
    """Take samples as the sampler does."""
    taken: list[Edge | None] = []
    last = world.now - period_ms * MS
    for _ in range(samples):
        wake, search = lock.plan(max(last + period_ms * MS, world.now))
        world.now = max(world.now, wake)
        if search:
            edge = lock.search()
            taken.append(edge)
            last = edge.time_ns
        else:
            lock.observe(world.now, world.read())
            taken.append(None)
            last = world.now
    return taken


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_every_tick_is_caught(seed: int, jitter_ms: float) -> None:
    """At ten samples a second and jittered ticks, each edge is bracketed, and nearly all within 2.2 ms."""
    world = World(jitter_ms=jitter_ms, seed=seed)
    lock = TickLock(world.read, 100 * MS, 100 * MS, world.clock, world.sleep)
    edges = [edge for edge in follow(world, lock, 100, 200) if edge]
    assert len(edges) == 200
    assert all(edge.moved for edge in edges)
    for edge in edges:
        true = world.edges[int(edge.value) - 1]
        assert edge.unmoved_ns <= true <= edge.time_ns
    assert np.mean([edge.time_ns - edge.unmoved_ns < 2.2 * MS for edge in edges[5:]]) > 0.9
    assert np.diff([edge.value for edge in edges]).max() == 1
    assert world.reads < 200 * 30  # it sleeps most of the time


def test_slower_samples_still_fall_on_ticks() -> None:
    """At two samples a second every sample is an edge, five ticks apart."""
    world = World()
    lock = TickLock(world.read, 100 * MS, 500 * MS, world.clock, world.sleep)
    edges = [edge for edge in follow(world, lock, 500, 20) if edge]
    assert len(edges) == 20
    assert set(np.diff([edge.value for edge in edges]).tolist()) == {5.0}


def test_faster_samples_lie_between_ticks() -> None:
    """At fifty samples a second about one in five is an edge, the others are taken as they come."""
    world = World()
    lock = TickLock(world.read, 100 * MS, 20 * MS, world.clock, world.sleep)
    taken = follow(world, lock, 20, 200)
    assert 35 <= sum(edge is not None for edge in taken) <= 50


def test_a_dead_counter_is_given_up() -> None:
    """A counter that does not move is polled for one and a half ticks, then left alone for a second."""
    world = World(tick_ms=1e9)
    lock = TickLock(world.read, 100 * MS, 100 * MS, world.clock, world.sleep)
    edge = lock.search()
    assert not edge.moved
    assert 150 * MS <= world.now <= 160 * MS
    assert lock.plan(world.now + 500 * MS)[1] is False
    assert lock.plan(world.now + 1001 * MS)[1] is True


def test_a_forgotten_phase_is_found_again() -> None:
    """After a pause the lock searches at once and is as sharp as before."""
    world = World()
    lock = TickLock(world.read, 100 * MS, 100 * MS, world.clock, world.sleep)
    follow(world, lock, 100, 5)
    lock.forget()
    world.now += 1_234 * MS
    edges = [edge for edge in follow(world, lock, 100, 5) if edge]
    assert edges[-1].time_ns - edges[-1].unmoved_ns < 2.2 * MS
