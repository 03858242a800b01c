"""Texts and their translations."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from pathlib import Path

import pytest

import wattwerk
from wattwerk.bench import study
from wattwerk.errors import ConfigError
from wattwerk.language import FOREIGN, LANGUAGES, localised, recorded, recorded_texts, speaking, t, translations
from wattwerk.units import format_value, times

SOURCES = sorted(Path(wattwerk.__file__).parent.rglob("*.py"))
TRANSLATED = [language for language in LANGUAGES if language != "en"]


def _texts(source: Path) -> set[str]:
    """Return the first arguments of all calls of ``t`` in a file; what is no literal is an error."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
            assert isinstance(node.args[0], ast.Constant), f"{source}:{node.lineno}: t takes a literal"
            found.add(str(node.args[0].value))
    return found


def _templates(source: Path) -> set[str]:
    """Return the texts of a file, each value that is filled in as ``{}``."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"\{\w+\}", "{}", node.value))
    return found


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated(language):
    """Each text in the code has a translation, and each translation has its text in the code."""
    texts = set().union(*map(_texts, SOURCES))
    assert texts == set(translations(language))


@pytest.mark.parametrize("language", TRANSLATED)
def test_placeholders_are_kept(language):
    """A translation fills in what its text fills in."""
    wrong = [text for text, other in translations(language).items() if _placeholders(text) != _placeholders(other)]
    assert wrong == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_texts_of_records_are_those_that_the_code_writes(language):
    """Each text in the table of recorded texts is (a part of) one that the code writes; a changed one is found."""
    rules = {rule.exclude for name in study.shipped() for rule in study.read(name).rules}
    written = "\n".join(sorted(set().union(rules, *map(_templates, SOURCES))))
    file = Path(wattwerk.__file__).parent / "languages" / f"{language}.records.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    assert [text for text in table if re.sub(r"\{\w+\}", "{}", text) not in written] == []
    assert [text for text, other in table.items() if _placeholders(text) != _placeholders(other)] == []
    assert len(table) == len(recorded_texts(language))


def test_recorded_texts_are_translated_with_what_varies_in_them():
    """Numbers get their decimal mark, parts their translation, names stay; what is not known is kept and marked."""
    drift = "drifting: the duration of an iteration changed by +19.5% over the windows"
    with speaking("de"):
        assert recorded(drift).endswith("über die Fenster um +19,5 %")
        assert recorded(f"throttled (hw_slowdown); {drift}").startswith("gedrosselt (hw_slowdown); Drift")
        assert recorded("its process was ended by signal 11") == "sein Prozess wurde durch Signal 11 beendet"
        assert recorded("the driver is ill") == f"{FOREIGN[0]}the driver is ill{FOREIGN[1]}"
    assert recorded(drift) == drift


REFUSALS = {
    "onnxruntime cannot run int8 on cuda:0: the CUDA provider has no int8 convolutions: it would dequantise and "
    "compute in floating point: use fp32 or fp16, or another runtime or device": "",
    "ONNX Runtime cannot take tiny in fp16 (Could not find an implementation): try another runtime or precision": (
        "Could not find an implementation"
    ),
    "shelly: 3 failed reads, the last one with MeasurementError: shelly: http://192.0.2.7 does not answer (refused); "
    "see whether it is up": "refused",
    "rapl: RAPL: the counters stand at 0, as in most virtual machines: measure on the host, or use a wall meter": "",
    "modbus: meter0_power_w: 2 faults, the last one: 7e9 is beyond what can be": "",
    "nvml: NVML does not start (NVML Shared Library Not Found): install the NVIDIA driver; start a container with "
    "`--gpus all`": "NVML Shared Library Not Found",
    "excluded by the study (rule 2): on a CPU ONNX Runtime shows it (all 6 configurations)": "",
    "excluded by the study (memory): zu groß": "zu groß",
    "no load keeps the limit of 15.0 ms: the lowest percentile 90 seen is 64.8 ms, a lone batch takes 74.1 ms; LoadGen "
    "says INVALID: the latency limit is not kept; it advises: Reduce target QPS": "Reduce target QPS",
    "does not fit in memory (vit-b-16 at batch 32 does not fit on cuda:0)": "",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_others_said_stays_within_a_translated_sentence(text):
    """Refusals and faults of our own are German as a whole; of what a library or a person said only that is marked."""
    with speaking("de"):
        told = recorded(text)
    inside = re.findall(f"{FOREIGN[0]}(.*?){FOREIGN[1]}", told)
    assert inside == ([REFUSALS[text]] if REFUSALS[text] else [])
    assert re.sub(f"{FOREIGN[0]}.*?{FOREIGN[1]}", "", told) != re.sub(re.escape(REFUSALS[text]), "", text)


def test_thousands_and_decimals_change_places():
    """A number has the marks of its language."""
    with speaking("de"):
        assert localised("12,345.6") == "12.345,6"
    assert localised("12,345.6") == "12,345.6"


def test_a_language_holds_within_its_block_only():
    """Texts and decimal marks follow the language, and the one before comes back, after an error too."""

    def fails_in_german() -> None:
        with speaking("de"):
            assert (times(3), format_value("x_s", 0.00793)) == ("3-mal", "7,93 ms")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_in_german()
    assert (times(3), format_value("x_s", 0.00793)) == ("3 times", "7.93 ms")
    assert t("once") == "once"


def test_an_unknown_language_is_named():
    """The error names the language and those that there are."""
    with pytest.raises(ConfigError, match="'fr'") as caught, speaking("fr"):
        pass
    assert "en, de" in str(caught.value.remedy)
