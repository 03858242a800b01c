from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.bench.conftest import write_tiny_onnx

from wattwerk.records import Record, Status, Subject, measured
from wattwerk.store import Store

Make = Callable[..., Record]
Command = Callable[..., subprocess.CompletedProcess[str]]

FAST = ["--iterations", "8", "--warmup", "2", "--windows", "2", "--window-s", "0.3", "--idle-s", "0.2"]


def wattwerk(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line without a terminal, 80 columns wide."""
    return subprocess.run(
        [sys.executable, "-m", "wattwerk", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"} | environment,
        timeout=120,
        check=False,
    )


def test_version_and_help_need_nothing_heavy() -> None:
    """Neither --version nor --help of any command imports numpy or a runtime."""
    code = (
        "import sys; sys.argv = ['wattwerk', *sys.argv[1:]]\n"
        "from wattwerk.cli import main\n"
        "try: main()\n"
        "except SystemExit as leave: assert leave.code == 0, leave.code\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'torch', 'openvino', 'plotly', 'psutil', 'pynvml'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (["--version"], ["--help"], ["bench", "--help"], ["results", "--help"], ["compare", "--help"]):
        answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout


def test_every_command_offers_json_and_fits_80_columns() -> None:
    """Each command's help names --json, and no line of it is wider than 80 columns."""
    for command in (["bench"], ["compare"], ["report"], ["models"], ["doctor"], ["results", "list"],
                    ["results", "show"], ["results", "delete"], ["results", "export"]):  # fmt: skip
        text = wattwerk(*command, "--help").stdout
        assert "--json" in text, command
        assert max(len(line) for line in text.splitlines()) <= 80, command


@pytest.fixture
def bad_inputs(tmp_path: Path) -> dict[str, str]:
    """Return files that are wrong in different ways."""
    (tmp_path / "corrupt.onnx").write_bytes(b"\x08\x01garbage" * 50)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "absurd.toml").write_text("models = [[[")
    (tmp_path / "unknown.toml").write_text('models = ["mobilenet-v2"]\nbatchs = [1]\n')
    (tmp_path / "type.toml").write_text('models = "mobilenet-v2"\nbatches = "many"\n')
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    return {path.name: str(path) for path in tmp_path.iterdir()} | {"missing": str(tmp_path / "missing.onnx")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bench"], "no model"),
        (["bench", "{missing}"], "missing.onnx"),
        (["bench", "{corrupt.onnx}"], "corrupt.onnx"),
        (["bench", "{empty.onnx}"], "empty.onnx"),
        (["bench", "mobilnet-v2"], "mobilenet-v2"),
        (["bench", "mobilenet-v2", "--runtime", "onnxruntme"], "onnxruntime"),
        (["bench", "mobilenet-v2", "--precision", "fp8"], "fp8"),
        (["bench", "mobilenet-v2", "--device", "tpu"], "tpu"),
        (["bench", "mobilenet-v2", "--batch", "0"], "batch size 0"),
        (["bench", "mobilenet-v2", "--batch", "-3"], "-3"),
        (["bench", "mobilenet-v2", "--batch", "many"], "many"),
        (["bench", "mobilenet-v2", "--threads", "0"], "thread count 0"),
        (["bench", "mobilenet-v2", "--threads", "99999"], "thread count 99999"),
        (["bench", "mobilenet-v2", "--seed", "-1"], "seed"),
        (["bench", "mobilenet-v2", "--window-s", "nan"], "window_s"),
        (["bench", "mobilenet-v2", "--option", "nonsense=1"], "nonsense"),
        (["bench", "mobilenet-v2", "--option", "nonsense"], "nonsense"),
        (["bench", "mobilenet-v2", "--window-s", "0"], "window_s"),
        (["bench", "mobilenet-v2", "--windows", "1"], "windows"),
        (["bench", "mobilenet-v2", "--iterations", "-1"], "iterations"),
        (["bench", "mobilenet-v2", "--weights", "{weights.safetensors}"], "weights.safetensors"),
        (["bench", "mobilenet-v2", "--report", "no-such-folder/report.html"], "no-such-folder"),
        (["bench", "--config", "{absurd.toml}"], "absurd.toml"),
        (["bench", "--config", "{unknown.toml}"], "batches"),
        (["bench", "--config", "{type.toml}"], "type.toml"),
        (["bench", "--config", "{missing}"], "missing.onnx"),
        (["bench", "--resume"], "cut off"),
        (["bench", "mobilenet-v2", "--resume"], "--resume"),
        (["bench", "mobilenet-v2", "--no-such-option"], "--no-such-option"),
        (["results", "show", "ffff"], "ffff"),
        (["results", "delete", "ffff"], "ffff"),
        (["results", "export", "--format", "xml"], "xml"),
        (["compare", "a.json", "b.json"], "a.json"),
        (["compare", "last", "last"], "no record"),
        (["report", "last"], "no record"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_bad_input_is_one_clear_line(
    bad_inputs: dict[str, str], arguments: list[str], named: str, command: Command
) -> None:
    """Bad input ends with exit code 2 and an error that names it; never with a traceback."""
    filled = [bad_inputs.get(a.strip("{}"), a) if a.startswith("{") else a for a in arguments]
    answer = command(*filled)
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    assert named in " ".join(answer.stderr.split()).replace("│ ", "")
    if answer.stderr.startswith("error:"):
        assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("reference", ["no_such_module:make", "json:no_such_factory", "json:dumps"])
def test_a_factory_that_is_none_is_one_clear_line(reference: str) -> None:
    """Exit code 2 and the name of the factory; without torch, which every factory needs, exit code 3 and the remedy."""
    from importlib.util import find_spec

    answer = wattwerk("bench", reference)
    assert answer.returncode == (2 if find_spec("torch") else 3), answer.stderr
    assert reference.partition(":")[0] in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("body", ["raise RuntimeError('two\\nlines')", "import sys; sys.exit(3)", "return None"])
def test_a_factory_that_fails_is_named(tmp_path: Path, body: str) -> None:
    """Whatever a factory beside the user does, leaving the interpreter included, is one line with its name."""
    pytest.importorskip("torch")
    (tmp_path / "odd_factory.py").write_text(f"def make():\n    {body}\n")
    answer = subprocess.run(
        [sys.executable, "-m", "wattwerk", "bench", "odd_factory:make"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert "odd_factory:make" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_file_and_the_command_line_are_merged(tmp_path: Path) -> None:
    """One option on the command line replaces that key of the file's table, and leaves its others."""
    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    path = tmp_path / "bench.toml"
    path.write_text(f'models = ["{model}"]\n[procedure]\nwindow_s = 0.3\nwindows = 2\nidle_s = 0.2\nwarmup = 2\n')
    answer = wattwerk("bench", "--config", str(path), "--iterations", "8", "--json")
    assert answer.returncode == 0, answer.stderr
    protocol = json.loads(answer.stdout)["records"][0]["setup"]["protocol"]
    assert (protocol["window_s"], protocol["windows"], protocol["iterations"]) == (0.3, 2, 8)


def test_signs_in_names_and_reasons_are_shown_as_they_are(make_record: Make) -> None:
    """Square brackets in stored data are text, not markup, in every table."""
    odd = make_record(
        subject=Subject("q[x][/red].onnx"), status=Status.FAILED, reason="cannot load [/usr/lib/x.so]", figures={}
    )
    with Store() as store:
        store.add(odd)
    for command in (["results", "list"], ["results", "show", "last"]):
        answer = wattwerk(*command)
        assert answer.returncode == 0, answer.stderr
        assert "[/usr/lib/x.so]" in "".join(answer.stdout.split("\n"))


@pytest.mark.parametrize("target", [".", "/", "/dev/null/x.html"])
def test_a_place_that_is_no_file_is_one_clear_line(make_record: Make, target: str) -> None:
    """Reports and exports to where no file can be are refused without a traceback."""
    with Store() as store:
        store.add(make_record())
    for command in (["report", "last"], ["results", "export"]):
        answer = wattwerk(*command, "--output", target)
        assert answer.returncode == 2, answer.stderr
        assert len(answer.stderr.strip().splitlines()) == 1


def test_no_result_at_all_is_exit_code_1(tmp_path: Path) -> None:
    """A sweep in which nothing could be measured has failed as a check, with its reasons stored."""
    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    answer = wattwerk("bench", str(model), "--precision", "bf16", *FAST)
    assert answer.returncode == 1, answer.stderr
    assert "unsupported" in answer.stdout
    with Store() as store:
        assert [record.status for record in store.records()] == [Status.UNSUPPORTED]


def test_an_unreadable_store_is_left_alone(wattwerk_home: Path) -> None:
    """A store that is no database gives one line, exit code 2, and stays as it is."""
    wattwerk_home.mkdir()
    path = wattwerk_home / "records.db"
    path.write_bytes(b"my diary" * 1000)
    for command in (["results", "list"], ["bench", "mobilenet-v2"], ["report", "last"]):
        answer = wattwerk(*command)
        assert answer.returncode == 2
        assert "records.db" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert path.read_bytes() == b"my diary" * 1000


def test_an_unknown_meter_in_the_configuration_is_one_clear_line(wattwerk_home: Path, tmp_path: Path) -> None:
    """A section of a meter that there is not ends the command before anything is stored, and the nearest is named."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text("[meters.nvm]\n")
    for command in (["bench", str(write_tiny_onnx(tmp_path / "tiny.onnx"))], ["doctor"]):
        answer = wattwerk(*command)
        assert answer.returncode == 2
        assert len(answer.stderr.strip().splitlines()) == 1
        assert "meters.nvm" in answer.stderr
        assert "did you mean 'nvml'" in answer.stderr
    with Store() as store:
        assert not store.plans()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("[meters.rapl]\nnonsense = 3", "[meters.rapl]: unknown key 'nonsense': use one of root"),
        ("[meters.nvml]\ndevice = [0]", "[meters.nvml]: unknown key 'device': did you mean 'devices'?"),
        ("[meters.nvml]\ndevices = 'all'", "[meters.nvml]: Expected `array | null`, got `str` - at `$.devices`"),
        ("[meters.host-load]\nrate = 3", "[meters.host-load]: unknown key 'rate': remove it"),
    ],
)
def test_a_wrong_option_of_a_meter_is_one_clear_line(
    wattwerk_home: Path, tmp_path: Path, section: str, told: str
) -> None:
    """An option that its meter does not have ends the command before anything is stored, on any machine."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(section)
    answer = wattwerk("bench", str(write_tiny_onnx(tmp_path / "tiny.onnx")))
    assert answer.returncode == 2
    assert told in " ".join(answer.stderr.split())
    with Store() as store:
        assert not store.plans()


def test_bench_to_report_in_one_go(tmp_path: Path, wattwerk_home: Path) -> None:
    """A person benches a file, lists and shows the result, exports it, compares it with itself and gets a report."""
    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    answer = wattwerk("bench", str(model), "--batch", "1,4", "--json", *FAST)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert len(told["records"]) == 2
    figures = told["records"][0]["figures"]
    for name in ("latency_p50_s", "latency_p99_s", "throughput_per_s"):
        assert figures[name]["provenance"] == "measured"
    assert any("energy" in name and name.endswith("_j") for name in figures)
    assert told["summary"]["sentences"]
    assert Path(told["report"]).read_text().startswith("<!")
    listed = wattwerk("results", "list")
    assert "tiny" in listed.stdout
    assert max(len(line) for line in listed.stdout.splitlines()) <= 80
    assert "\x1b" not in listed.stdout
    shown = wattwerk("results", "show", told["records"][0]["id"])
    assert "latency_p99_s" in shown.stdout
    csv = wattwerk("results", "export", "--format", "csv")
    assert len(csv.stdout.strip().splitlines()) == 3
    exported = tmp_path / "all.json"
    assert wattwerk("results", "export", "--output", str(exported)).returncode == 0
    same = wattwerk("compare", str(exported), "last", "--json")
    assert same.returncode == 0, same.stderr
    page = tmp_path / "r.html"
    assert wattwerk("report", str(exported), "--output", str(page)).returncode == 0
    assert page.stat().st_size > 10_000
    assert wattwerk("results", "delete", told["sweep"]).returncode == 2
    assert wattwerk("results", "delete", told["sweep"], "--yes").returncode == 0
    assert json.loads(wattwerk("results", "list", "--json").stdout) == []


def test_compare_fails_on_a_regression(tmp_path: Path, make_record: Make) -> None:
    """Exit code 1, for CI, if the second is significantly slower by more than the tolerance; 0 the other way round."""
    slow = make_record("2" * 12, group="b" * 12, figures={"latency_p50_s": measured(0.0099, 0.0098, 0.0100)})
    with Store() as store:
        store.add(make_record("1" * 12))
        store.add(slow)
    assert wattwerk("compare", "111", "222").returncode == 1
    assert wattwerk("compare", "222", "111").returncode == 0
    assert wattwerk("compare", "111", "222", "--tolerance", "0.5").returncode == 0


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(tmp_path: Path) -> None:
    """After SIGINT the finished records are kept, the exit code is 130, and --resume measures the rest."""
    import signal

    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    batches = ",".join(str(b) for b in range(1, 5))
    run = subprocess.Popen(
        [sys.executable, "-m", "wattwerk", "bench", str(model), "--batch", batches, *FAST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stderr is not None
    first = run.stderr.readline()
    assert "tiny" in first
    os.killpg(run.pid, signal.SIGINT)
    _, complaint = run.communicate(timeout=60)
    assert run.returncode == 130, complaint
    assert "--resume" in complaint
    assert "Traceback" not in complaint
    with Store() as store:
        kept = store.records()
    assert 1 <= len(kept) < 4
    answer = wattwerk("bench", "--resume", "--json")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)["records"]
    assert len(found) == 4
    assert {msgspec.convert(r, Record).id for r in found} >= {record.id for record in kept}


def test_the_doctor_says_what_is_used_and_why(wattwerk_home: Path) -> None:
    """A meter is used, is off with the reason, does not work, or is to be used and fails; in 80 columns."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(
        '[meters.cpu-model]\nidle_w = 10.0\nmax_w = 50.0\n[meters.rapl]\nroot = "/nowhere"\n'
        '[meters.desk]\nkind = "shelly"\nurl = "http://127.0.0.1:9"\n'
    )
    lines = wattwerk("doctor").stdout.splitlines()
    marks = {line.split()[0]: line.split()[1] for line in lines if line[:1].strip() and len(line.split()) > 1}
    expected = {"host-load": "used", "cpu-model": "off", "desk": "fails", "tasmota": "no", "rapl": "fails"}
    assert {name: marks[name] for name in expected} == expected
    assert any("not used: the processor is left to rapl" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_doctor_and_models_say_what_is_there() -> None:
    """The doctor lists meters, runtimes and devices with reasons; the list of models has their sizes."""
    found = json.loads(wattwerk("doctor", "--json").stdout)
    assert found["runtimes"]["onnxruntime"]["available"] is True
    assert "onnxruntime cpu" in found["devices"]
    for probe in [*found["meters"].values(), *found["runtimes"].values()]:
        assert probe["available"] or probe["detail"]
    assert found["meters"]["host-load"]["used"] is True
    assert found["meters"]["rapl"]["used"] is found["meters"]["rapl"]["available"]
    text = wattwerk("doctor").stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    models = {m["name"]: m for m in json.loads(wattwerk("models", "--json").stdout)}
    assert models["resnet-50"]["parameters_count"] == pytest.approx(25.56e6, rel=0.01)
    assert max(len(line) for line in wattwerk("models").stdout.splitlines()) <= 80
