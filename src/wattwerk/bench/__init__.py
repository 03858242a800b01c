"""Bench: run a model on a runtime under meters and write a record."""
