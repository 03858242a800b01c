"""The study's charts: what is drawn is what the records hold, and only where they hold it."""

import json
import re

import msgspec
import pytest
from tests.bench.german import _strings as read_of
from tests.bench.german import _words as words_of
from tests.bench.german import english_words
from tests.bench.samples import MODELS, SERVER, laptop_sweep, latencies, modelled, record, server_sweep

from wattwerk.bench.labels import Names
from wattwerk.bench.report import render_report, shown_records
from wattwerk.bench.report.bars import Bar, bar_chart
from wattwerk.bench.report.figures import sections
from wattwerk.bench.report.published import ipa_study
from wattwerk.bench.report.roofline import intensity_of, peak_of
from wattwerk.bench.report.values import table_of
from wattwerk.bench.summary import summarise
from wattwerk.catalog.models import resolve
from wattwerk.catalog.traffic import bytes_moved, traffic_of
from wattwerk.language import speaking
from wattwerk.records import Platform, Scope, Status, derived, measured


def _section(records, key, **options):
    return next((section for section in sections(records, **options) if section.key == key), None)


def _bars(chart):
    """Return the values of a chart's first trace in the unit of its axis."""
    return chart.spec["data"][0]["x"]


def _texts(chart):
    return next(trace["text"] for trace in chart.spec["data"] if trace.get("mode") == "text")


def _with(old, **protocol):
    setup = msgspec.structs.replace(old.setup, protocol=old.setup.protocol | protocol)
    return msgspec.structs.replace(old, setup=setup, id=(old.id + str(sorted(protocol.items())))[-12:])


def _os(system, latency_s, runtime="torch", precision="fp32", cpu="Intel Core i7-13700"):
    platform = Platform(label="NVIDIA GeForce RTX 4090", os=system, cpu=cpu)
    return record(
        "resnet-50",
        runtime,
        precision,
        device="cuda:0",
        platform=platform,
        figures=latencies(latency_s, 1),
        group=system[:12] + cpu,
    )


def _pipeline(processing, batch, preprocess, inference, postprocess, whole):
    times = {"preprocess": preprocess, "inference": inference, "postprocess": postprocess}
    figures = {f"{name}_p50_s": measured(value) for name, value in times.items()}
    figures |= {f"{name}_share_ratio": derived(value / sum(times.values())) for name, value in times.items()}
    figures |= {"pipeline_p50_s": measured(whole)} | latencies(whole, batch)
    return _with(record("detr-r50", "torch", batch=batch, figures=figures, group=processing), processing=processing)


def _load(scenario, **figures):
    told = {name: measured(value) for name, value in figures.items()}
    return _with(record(figures=told, group=scenario), scenario=scenario, latency_limit_s=0.05, latency_percentile=99.0)


_SPEEDS = [("torch", "fp32", 8e-3), ("onnxruntime", "fp32", 4e-3), ("openvino", "bf16", 2e-3), ("torch", "bf16", 3e-3)]
PIPELINES = [
    _pipeline("sequential", 1, 0.024, 0.008, 0.001, 0.034),
    _pipeline("overlapped", 1, 0.002, 0.012, 0.001, 0.0125),
    _pipeline("sequential", 32, 0.7, 0.14, 0.02, 0.9),
]


def test_mean_power_is_over_the_models_that_all_ran():
    """Both bars of a pair are means over the common models, hatched where they are modelled; others do not count."""
    records = [r for r in server_sweep() if r.setup.precision == "fp32"]
    extra = record("yolov9-c", "torch", device="cuda:0", platform=SERVER, figures={"system_power_w": measured(999.0)})
    (chart,) = _section([*records, extra], "mean-power").charts
    eager = [r for r in records if r.setup.runtime == "torch" and r.setup.batch == 1]
    assert len(eager) == len(MODELS)
    system, device = (sum(r.value(n) for r in eager) / 3 for n in ("system_power_w", "gpu_power_w"))
    assert _bars(chart)[:2] == pytest.approx([system, device], rel=1e-4)
    assert chart.spec["data"][0]["marker"]["pattern"]["shape"][:2] == ["/", ""]
    assert "yolov9-c" not in chart.title


def test_load_of_the_processor_is_the_recorded_difference():
    """Each bar is the record's load above idle at the smallest batch size, in percent."""
    records = laptop_sweep()
    (chart,) = _section(records, "cpu-load").charts
    mine = [r for r in records if r.setup.batch == 1 and r.status is Status.OK]
    assert sorted(_bars(chart)) == pytest.approx(sorted(100 * r.value("cpu_load_delta_ratio") for r in mine), rel=1e-4)


def test_efficiency_has_bars_where_there_are_curves():
    """At the smallest batch size each efficiency is a bar; with one batch size the curves are bars already."""
    records = [r for r in server_sweep() if r.subject.name == "resnet-50"]
    charts = _section(records, "efficiency-bars").charts
    assert [chart.title for chart in charts] == [
        "resnet-50 · by accelerator · batch 1",
        "resnet-50 · by system · batch 1",
    ]
    values = [r.value("accelerator_efficiency_per_s_per_w") for r in records if r.setup.batch == 1]
    assert sorted(_bars(charts[0])) == pytest.approx(sorted(values), rel=1e-4)
    assert _section([r for r in records if r.setup.batch == 1], "efficiency-bars") is None


def test_phases_stand_one_behind_the_other():
    """Each part of a bar begins where the one before ends, the mark is the whole, and the text names the bottleneck."""
    chart = _section(PIPELINES, "pipelines").charts[0]
    before, run, after = chart.spec["data"][:3]
    assert chart.title == "detr-r50 · batch 1"
    assert before["x"] == pytest.approx([24, 2])
    assert run["base"] == pytest.approx([24, 2])
    assert after["base"] == pytest.approx([32, 14])
    assert [t["x"] for t in chart.spec["data"] if t.get("name") == "the whole pipeline"] == [pytest.approx([34, 12.5])]
    assert [text.strip() for text in _texts(chart)] == ["34.0 ms, pre-processing 73 %", "12.5 ms, inference 80 %"]


def test_phases_over_batch_size_are_of_one_photo():
    """Over batch sizes the phases of each way of processing are divided by the batch."""
    found = {chart.title: chart for chart in _section(PIPELINES, "pipelines").charts}
    chart = found["detr-r50 · sequential · over batch size"]
    assert chart.spec["data"][0]["x"] == pytest.approx([24, 0.7 / 32 * 1e3], rel=1e-4)
    assert "detr-r50 · batch 32" in found
    assert _section(laptop_sweep((1,)), "pipelines") is None


def test_levels_rise_from_the_plainest_configuration():
    """Steps are speed-ups over the start in rising order; what is slower than it stands above it."""
    times = {("torch", "fp32"): 10e-3, ("torch", "fp16"): 9e-3, ("tensorrt", "fp16"): 2e-3, ("openvino", "fp32"): 20e-3}
    records = [record("yolov9-c", runtime, p, figures=latencies(s, 1)) for (runtime, p), s in times.items()]
    (chart,) = _section(records, "levels").charts
    assert _bars(chart) == pytest.approx([0.5, 1, 10 / 9, 5], rel=1e-4)
    assert [text.strip() for text in _texts(chart)] == ["0.50×, 20.0 ms", "10.0 ms", "1.11×, 9.00 ms", "5.0×, 2.00 ms"]
    assert chart.spec["layout"]["shapes"][0]["x0"] == 1.0


def test_gains_do_not_repeat_the_levels():
    """Speed-ups on one device are levels alone; among the gains is the fastest of each device and precision."""
    one = [record(runtime=r, precision=p, figures=latencies(s, 1)) for r, p, s in _SPEEDS]
    assert not _section(one, "comparison").charts
    assert "no two devices" in _section(one, "comparison").note
    (chart,) = _section([*one, record(device="cuda:0", figures=latencies(1e-3, 1))], "comparison").charts
    assert chart.title == "mobilenet-v2 · speed-up by device"
    assert [text.strip() for text in _texts(chart)] == ["2.0×", "8.0×", "4.0×"]


def test_levels_of_two_machines_are_never_one_ladder():
    """Machines, and systems of one machine, each have a ladder with a start of their own."""
    records = [
        _os(s, t * k, precision=p)
        for s, k in (("Linux 6", 1), ("Windows 10", 9))
        for p, t in (("fp32", 4), ("fp16", 2))
    ]
    charts = _section(shown_records(records), "levels").charts
    assert [_bars(chart) for chart in charts] == [[1.0, 2.0], [1.0, 2.0]]
    assert "Windows 10" in charts[1].title


def test_systems_are_compared_on_the_same_hardware_only():
    """Two systems of one machine are bars side by side; with another processor there is a sentence instead."""
    linux, windows = _os("Ubuntu 22.04.5 LTS", 2e-3), _os("Windows 10 22H2", 3e-3)
    (chart,) = _section([linux, windows], "systems").charts
    assert chart.spec["layout"]["yaxis"]["ticktext"] == ["Ubuntu 22.04.5", "Windows 10"]
    assert _bars(chart) == pytest.approx([r.value("latency_mean_s") * 1e3 for r in (linux, windows)], rel=1e-4)
    other = _section([linux, _os("Windows 10 22H2", 3e-3, cpu="AMD")], "systems")
    assert not other.charts
    assert "same hardware" in other.note
    assert _section([linux], "systems") is None


def _accurate(precision, energy_j, accuracy, runtime="torch"):
    figures = latencies(1e-3, 1) | {
        "gpu_energy_per_inference_j": measured(energy_j, energy_j * 0.9, energy_j * 1.1, scope=Scope.ACCELERATOR),
        "top1_accuracy_ratio": measured(accuracy),
    }
    return record("resnet-50", runtime, precision, device="cuda:0", platform=SERVER, figures=figures)


def test_front_holds_what_nothing_beats_in_both():
    """Less energy or more accuracy keeps a configuration on the front; more energy for no more accuracy does not."""
    records = [
        _accurate("fp32", 0.4, 0.761),
        _accurate("bf16", 0.2, 0.760),
        _accurate("int8", 0.1, 0.741),
        _accurate("fp16", 0.3, 0.760),
        _accurate("fp32", 0.5, 0.761, "openvino"),
    ]
    (chart,) = _section(records, "accuracy-energy").charts
    points = [trace for trace in chart.spec["data"] if trace["mode"] == "markers"]
    told = {(t["x"][0], t["y"][0]): t["showlegend"] for t in points}
    assert told == {(100, 74.1): True, (200, 76.0): True, (400, 76.1): True, (300, 76.0): False, (500, 76.1): False}
    steps = next(trace for trace in chart.spec["data"] if trace["mode"] == "lines")
    assert steps["x"] == [100, 200, 400]
    assert _section([_os("Linux", 1e-3)], "accuracy-energy") is None


@pytest.mark.parametrize("figure", ["top1_accuracy_ratio", "map_ratio", "miou_ratio", "agreement_ratio"])
def test_any_accuracy_is_laid_against_energy(figure):
    """Each kind of accuracy makes the chart, modelled energies are open markers with the model's bounds."""
    figures = latencies(1e-3, 1) | {
        "system_energy_per_inference_j": modelled(0.2, 0.5, None),
        figure: measured(0.5, 0.4, 0.7),
    }
    (chart,) = _section([record(figures=figures)], "accuracy-energy").charts
    (point,) = chart.spec["data"]
    assert point["y"] == [50]
    assert point["marker"]["symbol"].endswith("-open")
    assert point["error_x"]["arrayminus"] == [100]
    assert (point["error_y"]["array"], point["error_y"]["arrayminus"]) == ([20], [10])
    table = table_of(chart.spec)
    ends = [head for head in table["head"] if "bound" in head]
    assert ends[2:] == ["energy per inference: lower bound (mJ)", "energy per inference: upper bound (mJ)"]
    assert [table["rows"][0][table["head"].index(head)] for head in ends] == [40, 70, 100, 300]


def _placed(batch, rate, share, precision="bf16"):
    name = "resnet-50"
    subject = resolve(name).subject()
    figures = latencies(1e-3, batch) | {"effective_ops_per_s": derived(rate), "peak_share_ratio": derived(share)}
    made = record(name, "torch", precision, batch, device="cuda:0", platform=SERVER, figures=figures)
    return msgspec.structs.replace(made, subject=subject)


def test_bytes_are_counted_from_the_graph():
    """ResNet-50 moves its weights once a batch, and its inputs and outputs at least once a sample."""
    traffic = traffic_of("resnet-50")
    assert traffic.sample_least_count == 3 * 224 * 224 + 1000
    assert traffic.sample_layers_count > 2 * traffic.sample_least_count
    layers, least = bytes_moved(traffic, "bf16", 4)
    assert least == 2 * (traffic.weights_count + 4 * traffic.sample_least_count)
    assert layers == 2 * (traffic.weights_count + 4 * traffic.sample_layers_count)
    assert bytes_moved(traffic, "fp4", 1) is None
    assert traffic_of("my-model") is None


def test_roofline_has_the_points_and_the_roof():
    """Points stand at modelled operations per byte and the measured rate; the roof bends where bandwidth meets peak."""
    records = [_placed(1, 9.895e12, 0.01), _placed(32, 9.895e13, 0.1)]
    (chart,) = _section(records, "roofline").charts
    roof, line = chart.spec["data"]
    assert roof["x"][1] == pytest.approx(989.5e12 / 4.8e12, rel=1e-3)
    assert roof["y"][1:] == pytest.approx([989.5, 989.5], rel=1e-3)
    assert line["y"] == pytest.approx([9.895, 98.95], rel=1e-4)
    assert line["x"] == pytest.approx([intensity_of(r)[0] for r in records], rel=1e-4)
    assert line["line"]["dash"] == "dash"
    assert peak_of(records[0]) == pytest.approx(989.5e12)
    table = table_of(chart.spec)
    column = table["head"].index("operations per byte, modelled: upper bound")
    most = [intensity_of(r)[1] for r in records]
    assert [row[column] for row in table["rows"]] == pytest.approx(most, rel=1e-4)


def test_without_a_bandwidth_rates_are_bars_with_the_peak():
    """On a processor the best rate of each configuration is a bar, the peak a mark, its share modelled."""
    figures = latencies(1e-3, 1) | {
        "effective_ops_per_s": derived(2e11),
        "peak_share_ratio": modelled(0.25, scope=None),
    }
    (chart,) = _section([record(figures=figures)], "roofline").charts
    assert _bars(chart) == [200]
    assert [t["x"] for t in chart.spec["data"] if t.get("name") == "peak of cpu, modelled"] == [[800]]
    assert "~25.0 %" in _texts(chart)[0]


def test_loads_show_percentiles_limit_rate_and_energy():
    """Under a load: percentiles with the limit as a mark, the load found of each scenario, the energy of a sample."""
    energy = {"system_energy_per_inference_j": 0.04, "system_net_energy_per_inference_j": 0.03}
    query = {"query_p50_s": 0.01, "query_p90_s": 0.02, "query_p99_s": 0.04}
    records = [
        _load("server", target_queries_per_s=53.6, samples_per_s=50.0, **query, **energy),
        _load("offline", samples_per_s=89.7, **energy),
    ]
    latency, rates, energies = _section(records, "loads").charts
    assert latency.title == "mobilenet-v2 · server · latency"
    assert _bars(latency) == [10, 20, 40]
    assert [t["x"] for t in latency.spec["data"] if t.get("name") == "limit at 99 %"] == [[50]]
    assert _bars(rates) == [53.6, 89.7]
    assert _bars(energies) == [40, 30, 40, 30]
    assert [text.strip() for text in _texts(latency)] == ["10.0 ms", "20.0 ms", "40.0 ms"]
    assert [section.key for section in sections(records)] == ["loads"]
    assert _section(laptop_sweep((1,)), "loads") is None


def test_streams_are_curves_over_their_number():
    """Median latency and the throughput of all streams stand over the number of streams."""
    records = [
        _with(record(figures=latencies(s, 1), group=str(n)), concurrent_streams=n) for n, s in ((1, 0.013), (2, 0.014))
    ]
    latency, rate = _section(records, "streams").charts
    (line,) = latency.spec["data"]
    assert line["x"] == [1, 2]
    assert line["y"] == pytest.approx([13, 14])
    assert rate.spec["layout"]["xaxis"]["title"]["text"] == "number of streams"
    assert _section(laptop_sweep((1,)), "streams") is None


def test_published_values_are_outlined_and_never_ranked():
    """They are drawn as outlines called published, with the study's value, and the summary does not change."""
    records = [r for r in server_sweep() if r.subject.name != "mobilenet-v2"]
    records = [msgspec.structs.replace(r, figures=r.figures | {"cpu_load_delta_ratio": measured(0.3)}) for r in records]
    chart = _section(records, "cpu-load", published=ipa_study()).charts[0]
    marks = chart.spec["data"][0]
    assert marks["x"][-2:] == [62.0, 62.0]  # i7-13700: the middle of 59 to 65; RTX 4090
    assert marks["marker"]["color"][-2:] == ["@surface", "@surface"]
    assert _texts(chart)[-2].strip() == "59.0–65.0 %"
    with speaking("de"):
        german = _section(records, "cpu-load", published=ipa_study()).charts[0]
    assert _texts(german)[-2].strip() == "59,0–65,0 %"
    assert chart.spec["layout"]["yaxis"]["ticktext"][-1] == "published"
    plain, laid = (
        re.search(r'<section id="summary".*?</section>', render_report(records, with_study=w)).group()
        for w in (False, True)
    )
    assert plain == laid
    assert "published" not in " ".join(summarise(records).sentences)


def test_published_values_stand_where_they_belong():
    """The study's pipeline, power and rate stand in their charts with the values of its text."""
    pipeline = _section(PIPELINES, "pipelines", published=ipa_study()).charts[0]
    assert [text.strip() for text in _texts(pipeline)][-2:] == ["11.7 ms", "143 ms"]
    power = _section(server_sweep(), "mean-power", published=ipa_study()).charts[0]
    assert _bars(power)[-7:] == [170, 90, 78, 1.5, 202, 153, 17]
    rates = _section([_placed(1, 9.895e12, 0.01)], "roofline", published=ipa_study()).charts[1]
    assert _bars(rates)[-2:] == [2.61, 51.72]
    levels = [record("yolov9-c", "torch", p, figures=latencies(s, 1)) for p, s in (("fp32", 2e-3), ("fp16", 1e-3))]
    (chart,) = _section(levels, "levels", published=ipa_study()).charts
    assert _bars(chart)[-2:] == pytest.approx([1 / (1 - 0.075), 1 / (1 - 0.718)], rel=1e-4)


def test_the_key_explains_outlines_where_there_are_any():
    """With published bars the key says what an outline is; without one it does not."""
    records = [record("yolov9-c", "torch", p, figures=latencies(1e-3, 1)) for p in ("fp32", "fp16")]
    assert "published by others, never ranked" in render_report(records, with_study=True)
    assert "published by others" not in render_report(records)
    assert "published by others" not in render_report(laptop_sweep((1,)), with_study=True)


def test_long_names_keep_what_sets_them_apart():
    """Names too long for a phone lose the parts that all have in common, not the one that differs."""
    bars = [Bar(label="fp32", value=1.0, colour="@fp32", text="1 s")]
    names = [f"a-server-with-a-name · {runtime} · cuda:0 · 2 streams" for runtime in ("torch", "torch-compile")]
    spec = bar_chart([(name, bars) for name in names], "x_s", title="time")
    assert [each["text"] for each in spec["layout"]["annotations"]] == ["<b>torch</b>", "<b>torch-compile</b>"]


def test_a_part_of_the_names_can_be_left_out():
    """What a chart tells in another way, such as the system, is not in the lanes as well."""
    linux, laptop = _os("Linux 6", 1e-3), laptop_sweep((1,))[0]
    assert "NVIDIA GeForce RTX 4090" in Names([linux, laptop]).lane(linux)
    assert Names([linux, laptop], without=("machine", "device")).lane(linux) == "torch"


def _everything():
    """Return records that make every section, on several machines."""
    streams = [_with(record(figures=latencies(0.01, 1)), concurrent_streams=count) for count in (1, 2)]
    query = {f"query_p{percent}_s": 0.0005 * percent for percent in (50, 90, 99)}
    energy = {"system_energy_per_inference_j": 0.04}
    loads = [_load("server", target_queries_per_s=50.0, samples_per_s=48.0, **energy, **query)]
    systems = [_os(system, 2e-3) for system in ("Ubuntu 22.04.5 LTS", "Windows 10 22H2")]
    placed = [_placed(1, 9.895e12, 0.01), _placed(32, 9.895e13, 0.1)]
    return [*PIPELINES, *streams, *loads, *systems, *placed, *server_sweep(), _accurate("int8", 0.1, 0.741)]


def _read(records):
    """Return all texts of the charts that people read."""
    for section in sections(shown_records(records), published=ipa_study()):
        yield from (section.title, section.intro)
        for chart in section.charts:
            yield from (chart.title, chart.alt, *read_of(chart.spec))


def test_german_charts_have_no_english_word():
    """In German nothing of the study's charts is left in English, published values included."""
    records = _everything()
    names = {"torch-compile", "torch", "onnxruntime", "LoadGen", "Roofline", "(pipeline)", "Student"}
    names |= {name for each in records for name in (each.subject.name, each.platform.label, each.platform.os)}
    names |= {text for value in ipa_study() for text in (value.condition, value.source)}
    forbidden, left = english_words(), {}
    with speaking("de"):
        for text in _read(records):
            plain = text
            for name in sorted(names - {""}, key=len, reverse=True):
                plain = plain.replace(name, " ")
            left |= {word: text for word in words_of(plain) & forbidden}
    assert left == {}


def test_plotly_accepts_the_studys_charts():
    """Every chart is valid plotly, once its colour tokens are replaced."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for section in sections(_everything(), published=ipa_study()):
        for chart in section.charts:
            plain = json.loads(re.sub(r'"@[a-z0-9/]+"', '"#123456"', json.dumps(chart.spec)))
            assert graph_objects.Figure({"data": plain["data"], "layout": plain["layout"]}).data
