"""The small model."""

from __future__ import annotations

import pytest

from wattwerk.testing import SmallModel


@pytest.fixture(scope="session")
def small_model() -> SmallModel:
    """Return a model that every runtime takes in no time."""
    return SmallModel()
