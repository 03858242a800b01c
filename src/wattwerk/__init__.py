"""wattwerk: measure, lower and explain the energy that AI costs."""

__version__ = "0.1.0"

__all__ = ["__version__"]
