"""The sampling process with the meters of this machine, which it chooses while its parent still imports."""

from __future__ import annotations

from wattwerk.metering.sensors import specs_here
from wattwerk.meters import sampler


def main(folder: str) -> None:
    """Run the sampling process; a job that names no meters takes those of this machine."""
    sampler.main(folder, specs_here)
