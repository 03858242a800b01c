"""A report in German has no English word but names, and its numbers and dates are German."""

import re
from pathlib import Path

import pytest
from tests.bench.german import VisibleText, english_in
from tests.bench.samples import laptop_sweep, latencies, record, server_sweep, troubled_sweep

from wattwerk import export
from wattwerk.bench.report import render_report
from wattwerk.language import speaking
from wattwerk.records import Record, Status, measured, unavailable

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*/records.json"))


def _names(records: list[Record]) -> set[str]:
    """Return what is called the same in every language: models, machines, runtimes, options, packages."""
    found = set()
    for each in records:
        platform, setup = each.platform, each.setup
        options = (f"{key}={value}" for key, value in setup.options.items())
        products = (accelerator.name for accelerator in platform.accelerators)
        found |= {each.subject.name, platform.label, platform.cpu, setup.runtime, setup.device, *options, *products}
        found |= {*platform.packages, platform.os, platform.kernel, str(setup.protocol.get("scenario") or "")}
    return found - {""} | {"Single-stream", "Multi-stream", "sw_power_cap", "wattwerk", "plotly.js", "Student"}


def _english(records: list[Record]) -> dict[str, str]:
    with speaking("de"):
        return english_in(render_report(records), _names(records))


def _with_reasons() -> list[Record]:
    """Return records that ended in the ways that this package describes itself."""
    reasons = {
        Status.FAILED: "its process was ended by signal 11; its last words: Segmentation fault",
        Status.OUT_OF_MEMORY: "the system killed it, most likely because memory ran out",
        Status.UNSUPPORTED: "torch cannot run int8 on cuda:0: "
        "PyTorch quantises to int8 only through torch-compile on an x86 CPU",
        Status.INVALID: "throttled (hw_slowdown); "
        "drifting: the duration of an iteration changed by +19% over the windows",
    }
    missing = unavailable("no meter of scope wall is available; see `wattwerk doctor`")
    good = record(figures=latencies(1e-3, 1) | {"gpu_power_w": missing, "gpu_throttle_count": measured(4, note="none")})
    return [
        good,
        *(
            record(
                "resnet-50", status=status, reason=reason, figures=latencies(2e-3, 1) if "throttled" in reason else {}
            )
            for status, reason in reasons.items()
        ),
    ]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_a_study_in_german_has_no_english_word(path):
    """Of real records nothing is left in English: words, charts, alternative texts, table."""
    assert _english(export.read(path)) == {}


@pytest.mark.parametrize("make", [laptop_sweep, server_sweep, troubled_sweep, _with_reasons])
def test_modelled_failed_and_invalid_records_in_german_have_no_english_word(make):
    """Neither have records that are modelled, failed, refused or invalid; what others said is marked as English."""
    assert _english(make()) == {}


def test_the_search_for_english_words_finds_them():
    """An English page is full of what a German one may not have, so that the test above can fail."""
    records = laptop_sweep()
    assert len(english_in(render_report(records), _names(records))) > 50


def test_what_others_said_is_marked_as_english():
    """The message of a driver stays as it is, within an element that says so."""
    with speaking("de"):
        page = render_report(troubled_sweep())
    assert '<span lang="en">CUDA out of memory: 212 GB asked for</span>' in page
    assert "\u2068" not in "".join(re.findall(r"<td.*?</td>", page))


def test_numbers_dates_and_axes_are_german():
    """Decimal commas in words, table and at the axes; days as they are written in German."""
    with speaking("de"):
        page = render_report(laptop_sweep())
    assert '<html lang="de">' in page
    assert "gemessen 03.11.2026." in page
    assert '"separators":",."' in page
    visible = [text for text in VisibleText(page).found if re.search(r"\d\.\d", text)]
    assert [text for text in visible if not re.search(r"\d\.\d+\.\d|\d{1,3}\.\d{3}\b|wattwerk|Safari", text)] == []
