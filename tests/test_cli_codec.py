"""The commands pack, unpack and inspect, as people and programs call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.codec.samples import weights
from tests.test_cli import Command, wattwerk

from wattwerk.codec.containers import Restored, open_model, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small safetensors model."""
    path = tmp_path / "model.safetensors"
    write_model(path, Restored.of(weights(), "safetensors", {"format": "pt"}))
    return path


def test_pack_inspect_unpack(model: Path) -> None:
    """The three commands with their defaults lead from a model file to a model file of the same tensors."""
    packed = wattwerk("pack", str(model), "--json")
    assert packed.returncode == 0, packed.stderr
    told = json.loads(packed.stdout)
    stream = model.with_suffix(".nnc")
    assert (told["output"], told["output_bytes"]) == (str(stream), stream.stat().st_size)
    assert 0 < told["saved_ratio"] < 1

    inspected = wattwerk("inspect", str(stream), "--units", "--json")
    found = json.loads(inspected.stdout)
    assert [tensor["name"] for tensor in found["tensors"]] == list(weights())
    assert sum(unit["size_bytes"] for unit in found["units"]) == stream.stat().st_size
    assert (found["container"], found["metadata"], found["checked"]) == ("safetensors", {"format": "pt"}, True)
    assert found["tensors"][0]["qp"] == -38
    assert "units" not in json.loads(wattwerk("inspect", str(stream), "--no-check", "--json").stdout)

    back = model.with_name("back.npz")
    assert wattwerk("unpack", str(stream), "-o", str(back)).returncode == 0
    assert list(dict(open_model(back).read())) == list(weights())


def test_tables_fit_80_columns_without_colour(model: Path) -> None:
    """What people see of a stream fits 80 columns, has no colours without a terminal, and names every tensor."""
    wattwerk("pack", str(model), "--option", "scan_order=1", "--option", "codebook=auto")
    for arguments in (["--units"], ["--no-check"]):
        text = wattwerk("inspect", str(model.with_suffix(".nnc")), *arguments).stdout
        lines = text.splitlines()
        table = lines[next(i for i, line in enumerate(lines) if not line) :]
        assert max(map(len, table)) <= 80
        assert "\x1b" not in text
        assert all(name in text for name in weights())


def test_help_fits_and_needs_nothing_heavy() -> None:
    """Help of every command fits 80 columns, offers --json, and imports neither NumPy nor a framework."""
    code = (
        "import sys; sys.argv = ['wattwerk', *sys.argv[1:]]\n"
        "from wattwerk.cli import main\n"
        "try: main()\n"
        "except SystemExit as leave: assert leave.code == 0, leave.code\n"
        "assert not {'numpy', 'onnx', 'torch', 'safetensors', 'psutil'} & set(sys.modules)\n"
    )
    for command in ("pack", "unpack", "inspect", "transfer"):
        answer = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        text = wattwerk(command, "--help").stdout
        assert "--json" in text
        assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["pack", "{folder}/missing.safetensors"], 2, "missing.safetensors"),
        (["pack", "{model}", "--quality", "best"], 2, "near-lossless"),
        (["pack", "{model}", "--qp", "-9999"], 2, "qp -9999"),
        (["pack", "{model}", "--qp", "-30", "--target-size", "1MB"], 2, "exclude"),
        (["pack", "{model}", "--target-size", "3 parsecs"], 2, "6.5MB"),
        (["pack", "{model}", "--reduce", "sparsfy"], 2, "sparsify"),
        (["pack", "{model}", "--reduce", "sparsify:sparsity"], 2, "sparsity=0.5"),
        (["pack", "{model}", "--option", "rowskip=false"], 2, "row_skip"),
        (["pack", "{model}", "--config", "{folder}/absurd.toml"], 2, "absurd.toml"),
        (["pack", "{model}", "--config", "{folder}/unknown.toml"], 2, "quality"),
        (["pack", "{model}", "-o", "{folder}/none/x.nnc"], 2, "none/x.nnc"),
        (["pack", "{model}", "-o", "{model}"], 2, "--output"),
        (["unpack", "{folder}/cut.nnc"], 2, "cut.nnc"),
        (["unpack", "{folder}/good.nnc", "-o", "{folder}/x.tar"], 2, ".safetensors"),
        (["unpack", "{folder}/good.nnc", "--base", "{model}"], 2, "no update"),
        (["unpack", "{model}"], 2, "no NNC stream"),
        (["inspect", "{folder}/cut.nnc"], 2, "cut.nnc"),
        (["inspect", "{folder}/empty.nnc"], 2, "empty.nnc"),
        (["inspect", "{folder}/missing.nnc"], 2, "missing.nnc"),
        (["transfer", "{model}", "--preset", "eki"], 2, "eeki"),
        (["transfer", "{model}", "--up", "0"], 2, "up_bit_per_s"),
        (["transfer", "{folder}/missing.pt"], 2, "missing.pt"),
    ],
)
def test_bad_input_is_one_clear_line(
    model: Path, arguments: list[str], code: int, named: str, command: Command
) -> None:
    """Every mistake ends with its exit code and one line that names what is meant; never a traceback."""
    folder = model.parent
    command("pack", str(model), "-o", str(folder / "good.nnc"))
    (folder / "cut.nnc").write_bytes((folder / "good.nnc").read_bytes()[:-5])
    (folder / "empty.nnc").write_bytes(b"")
    (folder / "absurd.toml").write_text("[[[")
    (folder / "unknown.toml").write_text("qualty = 'small'\n")
    answer = command(*(text.format(folder=folder, model=model) for text in arguments))
    assert answer.returncode == code, answer.stderr
    assert named in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert not answer.stdout


def test_a_configuration_file_and_what_goes_before_it(model: Path) -> None:
    """A file says everything; a fineness on the command line replaces that of the file, passes stay."""
    path = model.with_name("pack.toml")
    path.write_text(
        'quality = "near-lossless"\nthreads = 1\n[options]\nrow_skip = false\n'
        '[[reduce]]\npass = "sparsify"\nsparsity = 0.9\n'
    )
    wattwerk("pack", str(model), "--config", str(path), "--qp", "-20")
    found = json.loads(wattwerk("inspect", str(model.with_suffix(".nnc")), "--json").stdout)
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert by_name["linear.weight"]["qp"] == -20
    assert by_name["linear.weight"]["zeros"] > 0.85


def test_passes_run_in_order_with_their_options(model: Path) -> None:
    """--reduce may be repeated; its patterns select tensors."""
    answer = wattwerk(
        "pack", str(model), "-r", "sparsify:sparsity=0.5,only=linear*+conv*", "-r", "k-means:clusters=4,only=linear*"
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(wattwerk("inspect", str(model.with_suffix(".nnc")), "--json").stdout)
    tools = {tensor["name"]: tensor["tools"] for tensor in found["tensors"]}
    assert "codebook" in tools["linear.weight"]
    assert "codebook" not in tools["conv.weight"]


def test_a_search_by_the_users_score(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--max-accuracy-loss takes a function that lies beside the user, and keeps its score."""
    monkeypatch.chdir(model.parent)
    (model.parent / "judge.py").write_text(
        "import numpy as np\n"
        "from wattwerk.codec.containers import open_model\n"
        "known = dict(open_model('model.safetensors').read())\n"
        "def score(arrays):\n"
        "    return -max(float(np.abs(arrays[n] - known[n]).max()) for n in ('conv.weight', 'linear.weight'))\n"
    )
    answer = wattwerk("pack", str(model), "--max-accuracy-loss", "0.01", "--evaluate", "judge:score")
    assert answer.returncode == 0, answer.stderr
    wattwerk("unpack", str(model.with_suffix(".nnc")), "-o", "back.npz")
    back = dict(open_model("back.npz").read())
    worst = max(float(np.abs(back[n] - weights()[n]).max()) for n in ("conv.weight", "linear.weight"))
    assert 0.001 < worst <= 0.0101


def test_updates_on_the_command_line(model: Path) -> None:
    """--base on both sides gives the new model."""
    new = model.with_name("new.safetensors")
    changed = weights()
    changed["conv.bias"] = changed["conv.bias"] + np.float32(0.5)
    write_model(new, Restored.of(changed, "safetensors"))
    assert wattwerk("pack", str(new), "--base", str(model)).returncode == 0
    answer = wattwerk("unpack", str(new.with_suffix(".nnc")), "--base", str(model), "-o", str(model.with_name("b.npz")))
    assert answer.returncode == 0, answer.stderr
    found = dict(open_model(model.with_name("b.npz")).read())
    assert np.allclose(found["conv.bias"], changed["conv.bias"], atol=1e-4)
    assert new.with_suffix(".nnc").stat().st_size < 500


def test_the_balance_of_a_transfer(model: Path) -> None:
    """`wattwerk transfer` stores a record, shows it in 80 columns, and takes other rates and powers."""
    answer = wattwerk("transfer", str(model), "--quality", "small")
    assert answer.returncode == 0, answer.stderr
    table = answer.stdout.split("Saved: ")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert "Packing pays below an upload of" in answer.stdout
    arguments = ("--up", "1", "--down", "8", "--sender-w", "2", "--receiver-w", "0", "--encode-w", "0", "--json")
    record = json.loads(wattwerk("transfer", str(model), *arguments).stdout)
    figures = {name: figure["value"] for name, figure in record["figures"].items()}
    assert figures["raw_transfer_energy_j"] == pytest.approx(2 * 8 * model.stat().st_size / 1e6)
    assert figures["encode_energy_j"] == 0
    stored = json.loads(wattwerk("results", "list", "--json").stdout)
    assert [each["kind"] for each in stored] == ["transfer", "transfer"]
    shown = wattwerk("results", "show", stored[0]["id"])
    assert "break_even_link_rate_bit_per_s" in shown.stdout
    listed = wattwerk("results", "list").stdout
    assert "by packing)" in listed
    assert max(map(len, listed.splitlines()[:3])) <= 80
    compared = wattwerk("compare", stored[0]["id"], stored[1]["id"])
    assert compared.returncode == 2
    assert "records of kind transfer only" in compared.stderr


def test_packing_under_measurement(model: Path) -> None:
    """`wattwerk pack --meter` writes the stream and tells the balance of sending it once."""
    told = json.loads(wattwerk("pack", str(model), "--meter", "--json").stdout)
    assert told["packed"]["output_bytes"] == model.with_suffix(".nnc").stat().st_size
    figures = told["record"]["figures"]
    assert figures["encode_energy_j"]["provenance"] in ("measured", "derived", "modelled")
    assert figures["saving_ratio"]["low"] <= figures["saving_ratio"]["value"] <= figures["saving_ratio"]["high"]
