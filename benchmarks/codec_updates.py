#!/usr/bin/env python3
"""What updates of a network in training cost: whole models, differences, and differences with contexts that look back.

    python benchmarks/codec_updates.py [--json] [--rounds 20] [--steps 10] [--qp -32]

A small network learns to tell digits apart; after every few steps its weights go to a receiver, each time as a whole
model or as the difference to what the receiver has. Told are the bytes of all rounds, the receiver's error at the end
(relative, of all weights), and the processor seconds of one thread. Needs torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from codec_models import digits, numpy_of
from codec_tools import relative_error
from wattwerk.codec import UpdateDecoder, UpdateEncoder, pack

Arrays = dict[str, Any]
SETTINGS: dict[str, dict[str, Any] | None] = {
    "whole models": None,
    "differences": {"temporal_contexts": "off", "history_contexts": "off"},
    "differences, temporal contexts": {"temporal_contexts": "on", "history_contexts": "off"},
    "differences, history contexts": {"temporal_contexts": "off", "history_contexts": "on"},
    "differences, both if smaller": {"temporal_contexts": "auto", "history_contexts": "auto"},
    "differences, both, rate weight 1": {"rate_weight": 1.0},
}


def training(rounds: int, steps: int) -> list[Arrays]:
    """Return the network before the first round and after each; it has learnt for 100 steps before."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers: list[nn.Module] = []
    for before, after in ((1, 48), (48, 96), (96, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(192 * 4, 480), nn.ReLU(), nn.Linear(480, 10))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    pictures, labels = digits(6400, 1)
    states = []
    for step in range(100 + rounds * steps):
        if step >= 100 and (step - 100) % steps == 0:
            states.append(snapshot(network))
        batch = slice(64 * step % 6400, 64 * step % 6400 + 64)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(pictures[batch]), labels[batch]).backward()
        optimiser.step()
    return [*states, snapshot(network)]


def snapshot(network: nn.Module) -> Arrays:
    """Return copies of the weights."""
    return {name: np.array(value) for name, value in numpy_of(network.state_dict()).items()}


def measure(states: list[Arrays], options: dict[str, Any] | None, qp: int) -> Arrays:
    """Return bytes, error and time of all rounds with one setting."""
    first, *rest = states
    common = {"qp": qp, "nonweight_qp": qp, "threads": 1}
    start = time.process_time_ns()
    if options is None:
        sizes = [len(pack(state, **common)) for state in rest]
        error = None
    else:
        encoder, decoder = UpdateEncoder(first, **common, **options), UpdateDecoder(first)
        streams = [encoder.encode(state) for state in rest]
        sizes = [len(stream) for stream in streams]
    cpu_s = (time.process_time_ns() - start) / 1e9
    if options is not None:
        for stream in streams:
            received = decoder.apply(stream)
        assert all(np.array_equal(received[name], value) for name, value in encoder.state.items())
        error = relative_error(rest[-1], received)
    return {
        "size_bytes": sum(sizes),
        "round_bytes": round(sum(sizes) / len(sizes)),
        "error": error,
        "encode_cpu_s": cpu_s,
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    parser.add_argument("--qp", type=int, default=-32)
    options = parser.parse_args()
    states = training(options.rounds, options.steps)
    print(f"a model has {sum(a.nbytes for a in states[0].values())} bytes", file=sys.stderr)
    records = [{"setting": name, **measure(states, setting, options.qp)} for name, setting in SETTINGS.items()]
    if options.json:
        print(json.dumps(records, indent=1))
    else:
        for record in records:
            print(", ".join(f"{key} {value}" for key, value in record.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
