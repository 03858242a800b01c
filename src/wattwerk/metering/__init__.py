"""Metering: what is done with running meters: anything measured, and meters brought into line with each other."""
