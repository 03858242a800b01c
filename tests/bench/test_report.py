"""The report is one safe, offline file that draws every chart, and hatches exactly what is modelled."""

import base64
import gzip
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import msgspec
import pytest
from tests.bench.samples import laptop_sweep, large_sweep, latencies, record, server_sweep, troubled_sweep

from wattwerk.bench.labels import lane_order
from wattwerk.bench.report import render_report, write_report
from wattwerk.bench.report.bars import Bar, bar_chart
from wattwerk.bench.report.base import axis_unit
from wattwerk.bench.report.curves import Curve, Point, curve_chart
from wattwerk.bench.report.facts import machine_facts
from wattwerk.bench.report.figures import sections
from wattwerk.errors import ConfigError
from wattwerk.records import Platform, Record, Status, unavailable

SWEEPS = {"laptop": laptop_sweep, "server": server_sweep, "troubled": troubled_sweep}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Outline(HTMLParser):
    """Collects what the tests ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text = [], {}, []
        self._script = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note the element, and whether a script begins."""
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._script = attributes.get("id", "code") if tag == "script" else None

    def handle_endtag(self, tag):
        """Note the end of a script."""
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        """Keep text and scripts apart."""
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.text.append(data)

    def all(self, tag):
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module", params=sorted(SWEEPS))
def page(request):
    """Return the records of a sweep and the outline of its report."""
    records = SWEEPS[request.param]()
    text = render_report(records)
    return records, text, Outline(text)


def _strings(value):
    if isinstance(value, dict):
        return [s for each in value.values() for s in _strings(each)]
    if isinstance(value, list):
        return [s for each in value for s in _strings(each)]
    return [value] if isinstance(value, str) else []


def _hatched(spec):
    return [
        bool(shape)
        for trace in spec["data"]
        if trace["type"] == "bar"
        for shape in trace["marker"].get("pattern", {}).get("shape", [""] * len(trace["x"]))
    ]


def _dashed(spec):
    return [trace["line"]["dash"] == "dash" for trace in spec["data"] if trace.get("mode") == "lines+markers"]


def test_nothing_is_loaded_from_anywhere(page):
    """No address of the web stands in the page, nothing has a source, and its policy forbids loading."""
    _, text, outline = page
    assert "http://" not in text
    assert "https://" not in text
    assert not [attrs for _, attrs in outline.tags if "src" in attrs]
    assert {attrs["href"][0] for _, attrs in outline.tags if "href" in attrs} <= {"#", "d"}
    assert "default-src 'none'" in next(m["content"] for m in outline.all("meta") if "http-equiv" in m)


def test_hostile_names_stay_text():
    """A model called like a script element becomes text everywhere: no element, no early end of a script."""
    outline = Outline(render_report(troubled_sweep()))
    plain = Outline(render_report(laptop_sweep()))
    assert len(outline.all("script")) == len(plain.all("script")) == 5
    assert not outline.all("b")
    assert any('<script>alert("x")</script>' in text for text in outline.text)
    specs = json.loads(outline.scripts["specs"])
    assert not any("<" in text for spec in specs for text in _labels([spec["data"], spec["layout"]]))


def _labels(specs):
    """Return the texts that plotly shows, without the marks that the report itself sets."""
    return [
        re.sub(r"^<b>(.*)</b>$", r"\1", text).replace("<br>", "").replace("<extra></extra>", "")
        for text in _strings(specs)
    ]


def test_every_record_is_in_the_table_and_in_the_download(page):
    """The table has one row for each record with its reason, and the download holds the records unchanged."""
    records, _, outline = page
    rows = [attrs for attrs in outline.all("tr") if attrs.get("class")]
    assert len(rows) == len(records)
    assert sorted(row["class"] for row in rows) == sorted(r.status.value for r in records)
    for r in records:
        assert any(r.reason in text for text in outline.text)
    unpacked = gzip.decompress(base64.b64decode(outline.scripts["records"]))
    assert msgspec.json.decode(unpacked, type=list[Record]) == records


def test_every_chart_has_a_specification_and_words(page):
    """Charts and specifications correspond, each has a heading and says what it shows."""
    _, _, outline = page
    charts = [attrs for attrs in outline.all("div") if attrs.get("class") == "chart"]
    specs = json.loads(outline.scripts["specs"])
    assert [int(chart["data-spec"]) for chart in charts] == list(range(len(specs)))
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 40 for chart in charts)
    assert len(outline.all("figure")) == len(charts) == len(outline.all("figcaption"))


def test_page_is_accessible(page):
    """It has a language, one first heading, no skipped level, sections with names, and a way past the navigation."""
    _, _, outline = page
    assert outline.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = {attrs["id"] for _, attrs in outline.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in outline.all("a")} <= ids
    assert {attrs["aria-labelledby"] for attrs in outline.all("section")} <= ids


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_hatching_and_dashes_mean_modelled_and_nothing_else(name):
    """In every chart a bar is hatched and a curve dashed if and only if its value is modelled."""
    records = SWEEPS[name]()
    found = {
        chart.title: (_hatched(chart.spec), _dashed(chart.spec))
        for section in sections(records)
        if section.key != "mean-power"  # its pairs can be modelled by half; it has a test of its own
        for chart in section.charts
    }
    for title, (bars, curves) in found.items():
        marks = bars + curves
        if "by system" in title:
            assert all(marks), title
        elif any(word in title for word in ("by accelerator", "accelerator, measured", "speed-up", "· accelerator ·")):
            assert not any(marks), title
        elif "processor" in title or "modelled" in title:
            assert all(marks), title
        else:  # latency and throughput are always measured
            assert not any(marks), title
    assert any(any(bars) for bars, _ in found.values())


def test_modelled_values_carry_their_bounds():
    """The error bars of modelled energies reach from the lower to the upper bound."""
    records = laptop_sweep(batches=(1,))
    chart = next(s for s in sections(records) if s.key == "power").charts[0]
    bars = chart.spec["data"][0]
    low = [x - minus for x, minus in zip(bars["x"], bars["error_x"]["arrayminus"], strict=True)]
    expected = {r.figures["cpu_power_w"].low for r in records if r.status is Status.OK}
    assert low == pytest.approx([expected.pop()] * 8, rel=1e-4)


def test_lanes_are_in_the_order_of_their_numbers():
    """4 streams stand before 16, which the alphabet does not know, and precisions in their own order."""
    four, sixteen = "torch · 4 streams", "torch · 16 streams"
    lanes = [(sixteen, "fp32"), (four, "int8"), (four, "fp32"), ("torch", "bf16")]
    assert sorted(lanes, key=lambda pair: lane_order(*pair)) == [lanes[3], lanes[2], lanes[1], lanes[0]]


def test_batch_axis_is_logarithmic_to_base_two():
    """Curves over batch size have a logarithmic axis with ticks at powers of two."""
    for section in sections(laptop_sweep()):
        if section.key in ("throughput", "efficiency"):
            axis = section.charts[0].spec["layout"]["xaxis"]
            assert axis["type"] == "log"
            assert axis["tickvals"] == [1, 2, 4, 8, 16, 32]


def test_no_value_is_written_over_the_line_of_reference():
    """The text of a bar that ends before the line of reference stands behind that line; all others behind their bar."""
    bars = [Bar(label=str(value), value=value, colour="@fp32", text=f"{value}×") for value in (0.5, 3.0)]
    spec = bar_chart([("torch", bars)], "x_ratio", title="times faster", reference=1.0, unit="×")
    (texts,) = [trace for trace in spec["data"] if trace.get("mode") == "text"]
    assert texts["x"] == [1.0, 3.0]


def test_a_half_is_not_called_500m():
    """Marks below one at a logarithmic axis are plain numbers; large ones keep their k."""
    for value, expected in ((0.6, "~g"), (300.0, "~s")):
        points = [Point(batch=1, value=value), Point(batch=32, value=value * 80)]
        spec = curve_chart(
            [Curve("torch fp32", "@fp32", "circle", False, points)], "throughput_per_s", title="rate", logarithmic=True
        )
        assert spec["layout"]["yaxis"]["tickformat"] == expected


def test_limits_are_told_in_words():
    """A limit's name is broken into words, so that a narrow column can wrap it, with its unit once."""
    platform = Platform("test", limits={"gpu0_clock_sm_max_hz": 1.98e9, "gpu0_temperature_slowdown_celsius": 89.0})
    ((_, facts),) = machine_facts([record(platform=platform)])
    assert dict(facts)["Limits"] == "gpu0 clock sm max 1.98 GHz, gpu0 temperature slowdown 89.0 °C"


def test_latency_bars_carry_the_standard_deviation():
    """The bar is the mean and its error bar one standard deviation, in the unit of the axis."""
    only = record(figures=latencies(2e-3, 1))
    bars = next(s for s in sections([only]) if s.key == "latency").charts[0].spec["data"][0]
    assert bars["x"] == pytest.approx([only.value("latency_mean_s") * 1e3], rel=1e-5)
    assert bars["error_x"]["array"] == pytest.approx([only.value("latency_std_s") * 1e3], rel=1e-5)


def test_invalid_records_are_shown_pale_and_not_compared():
    """An invalid record is drawn pale and called invalid; among the gains it does not occur."""
    found = {section.key: section for section in sections(troubled_sweep())}
    chart = next(chart for chart in found["latency"].charts if "resnet" in chart.title)
    assert [o for o in chart.spec["data"][0]["marker"]["opacity"] if o < 1]
    assert any("invalid" in text for text in chart.spec["data"][1]["text"])
    for chart in found["comparison"].charts:
        assert "@fp16" not in chart.spec["data"][0]["marker"]["color"]


def test_plotly_accepts_every_specification():
    """Every chart is valid plotly, once its colour tokens are replaced."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for make in SWEEPS.values():
        for section in sections(make()):
            for chart in section.charts:
                plain = json.loads(re.sub(r'"@[a-z0-9/]+"', '"#123456"', json.dumps(chart.spec)))
                assert graph_objects.Figure({"data": plain["data"], "layout": plain["layout"]}).data


def test_the_page_draws_with_what_it_holds(page):
    """The page holds plotly's basic bundle with its licence, complete, and no chart needs another kind of trace."""
    _, _, outline = page
    plotly = gzip.decompress(base64.b64decode(outline.scripts["plotly"])).decode()
    assert re.match(
        r"/\*\*\n\* plotly\.js \(basic - minified\) v\d.*?MIT license\n\*/\n\(\(\) => {\n", plotly, re.DOTALL
    )
    assert re.search(r"window\.Plotly = Plotly;\s+return Plotly;\s+}\)\(\);\n$", plotly)
    types = {trace["type"] for spec in json.loads(outline.scripts["specs"]) for trace in spec["data"]}
    assert types <= {"bar", "scatter"}


def test_one_record_makes_a_whole_page():
    """A single record gives charts wherever it has figures, and sections without say why."""
    outline = Outline(render_report([record(figures=latencies(1e-3, 1) | {"gpu_power_w": unavailable("no driver")})]))
    titles = [attrs["id"] for attrs in outline.all("section")]
    assert titles[:3] == ["summary", "method", "latency"]
    assert "Not available: no driver." in outline.text


def test_five_hundred_records_stay_below_five_megabytes(tmp_path):
    """The file for 500 records is smaller than 5 MB and is written in a few seconds."""
    path = tmp_path / "report.html"
    write_report(large_sweep(500), path)
    assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no record"),
        ([record(status=Status.FAILED, reason="it broke")], "it broke"),
        ([record(figures={})], "no latency"),
    ],
)
def test_nothing_to_draw_is_bad_use(records, message, tmp_path):
    """Without a record or a figure to draw there is one clear message with a remedy, and no file."""
    path = tmp_path / "report.html"
    with pytest.raises(ConfigError, match=message) as told:
        write_report(records, path)
    assert told.value.remedy
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_bad_use(tmp_path):
    """A folder that does not exist is named in the message, and nothing is left behind."""
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(laptop_sweep(), tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_reports_are_reproducible():
    """The same records give the same file, byte for byte."""
    assert render_report(laptop_sweep()) == render_report(laptop_sweep())


@pytest.mark.parametrize(
    ("figure", "largest", "expected"),
    [
        ("latency_p50_s", 2.5e-3, (1e-3, "ms")),
        ("throughput_per_s", 60000, (1.0, "1/s")),
        ("gpu_power_w", 700, (1.0, "W")),
        ("share_ratio", 0.4, (0.01, "%")),
        ("gpu_energy_per_inference_j", 0.0, (1.0, "J")),
    ],
)
def test_axis_units(figure, largest, expected):
    """An axis is scaled by the prefix of its largest value."""
    assert axis_unit(figure, largest) == expected


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed, so the page cannot be opened")
@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_browser_draws_every_chart_without_an_error(name, tmp_path):
    """A real browser draws marks in every chart of the page and reports no error on its console."""
    path = tmp_path / "report.html"
    write_report(SWEEPS[name](), path)
    # fmt: off
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1280,900", "--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom", path.as_uri(),
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert re.search(r'<html[^>]* data-charts="drawn"', done.stdout)
    charts = re.split(r'<div class="chart[ "]', done.stdout)[1:]
    assert len(charts) == sum(len(section.charts) for section in sections(SWEEPS[name]()))
    for chart in charts:
        drawn = chart.partition("</figure>")[0]
        assert re.search(r'class="(point|points|js-line)"', drawn), drawn[:200]
