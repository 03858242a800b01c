from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from wattwerk import config
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.registry import Registry


class Sample(msgspec.Struct, frozen=True):
    """Some options."""

    window_s: float = 1.0
    name: str = ""


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    """A misspelt key is refused with the key that was probably meant."""
    with pytest.raises(ConfigError, match="did you mean 'window_s'"):
        config.to_struct(Sample, {"windows": 2}, "sample")


def test_a_wrong_type_is_named() -> None:
    """A value of the wrong type says where and what."""
    with pytest.raises(ConfigError, match=r"sample: .*window_s"):
        config.to_struct(Sample, {"window_s": "long"}, "sample")


@pytest.mark.parametrize("content", [b"= 3", b"[a\n", b"\xff\xfe\x00", b"a = " + b"[" * 5000])
def test_absurd_toml_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    """What is not TOML, in whichever way, gives an error that names the file."""
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml"):
        config.read_toml(path)


def test_user_sections(wattwerk_home: Path) -> None:
    """A missing file or section is empty; a section that is no table is an error."""
    assert config.user_section("meters", "x") == {}
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text('machine = "x"\n[meters.cpu-model]\nidle_w = 3\n')
    assert config.user_section("meters", "cpu-model") == {"idle_w": 3}
    with pytest.raises(ConfigError, match="not a table"):
        config.user_section("machine")


def test_a_registry_imports_only_what_is_asked_for() -> None:
    """Names can be listed although a back end cannot be imported; loading it says why."""
    registry: Registry[object] = Registry("samples", {"good": "json:loads", "broken": "no_such_package:Thing"})
    assert registry.names() == ["good", "broken"]
    assert registry.load("good") is not None
    with pytest.raises(UnavailableError, match="no_such_package"):
        registry.load("broken")
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        registry.load("god")


def test_a_third_party_plugs_in_and_a_clash_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed entry point is found; one that takes a built-in name is refused."""

    def install(name: str, point: str) -> None:
        info = tmp_path / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[wattwerk.samples]\n{point} = json:dumps\n")
        monkeypatch.syspath_prepend(info.parent)

    install("other", "extra")
    registry: Registry[object] = Registry("samples", {"good": "json:loads"})
    assert registry.names() == ["good", "extra"]
    install("rude", "good")
    with pytest.raises(ConfigError, match="'good'"):
        registry.names()
