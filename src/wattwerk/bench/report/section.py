"""Sections of a report and their charts."""

from __future__ import annotations

import msgspec

from wattwerk.bench.report.base import Spec


class Chart(msgspec.Struct, frozen=True):
    """One chart.

    Attributes:
        title: What it is about: the model, and what else sets it apart from its neighbours.
        spec: Data, layout and height for plotly, with colour tokens.
        alt: What it shows, in a sentence.
    """

    title: str
    spec: Spec
    alt: str


class Section(msgspec.Struct, frozen=True):
    """Charts that belong together; ``note`` says why there are none."""

    key: str
    title: str
    intro: str
    charts: tuple[Chart, ...]
    note: str = ""
