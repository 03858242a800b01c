"""Catalog: which models and devices wattwerk knows, and how any other model is loaded."""
