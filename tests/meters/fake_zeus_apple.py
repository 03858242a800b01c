"""A stand-in for zeus-apple-silicon, written from its documentation: same classes, fields and unit, the millijoule.

It proves how the meter deals with what the library is documented to answer; what a Mac really answers is only known on
one.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

FIELDS = (
    "cpu_total_mj", "efficiency_cores_mj", "performance_cores_mj", "efficiency_core_manager_mj",
    "performance_core_manager_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj",
)  # fmt: skip


class FakeZeusApple(ModuleType):
    """A module that behaves like zeus_apple_silicon.

    Attributes:
        told: Field -> cumulative energy in mJ; what is left out is None, as for what a chip does not tell.
        refusal: What opening and reading raise; None for nothing.
    """

    def __init__(self, **told: Any) -> None:
        super().__init__("zeus_apple_silicon")
        self.told = told
        self.refusal: Exception | None = None
        module = self

        class AppleEnergyMonitor:
            """Counts from an unspecified moment that stays the same over its life."""

            def __init__(self) -> None:
                if module.refusal:
                    raise module.refusal

            def get_cumulative_energy(self) -> SimpleNamespace:
                """Return what was used so far."""
                if module.refusal:
                    raise module.refusal
                return SimpleNamespace(**{field: module.told.get(field) for field in FIELDS})

        self.AppleEnergyMonitor = AppleEnergyMonitor
