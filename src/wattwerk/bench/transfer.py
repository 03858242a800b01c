"""The energy of a single transfer: sending a model as it is, against encoding, sending and decoding it.

    raw     (up + down of the raw bytes)
    packed  encode + (up + down of the packed bytes) + decode

While a link is busy, its device draws a given power: the sender during the upload, the receiver during the download.
Those powers and the rates are assumptions, so that energies which contain them are modelled. The codec's share is
measured where a sensor exists, otherwise modelled from the processor time that it really took.
"""

from __future__ import annotations

import csv
import functools
import io
from importlib.resources import files
from typing import Any

import msgspec

from wattwerk.bench.transfer_codec import Work
from wattwerk.config import to_struct
from wattwerk.errors import ConfigError
from wattwerk.records import Figure, Provenance, Scope, derived, measured, unavailable
from wattwerk.registry import suggestion

#: The preset that is used where none is named.
DEFAULT_PRESET = "eeki"


class TransferConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The assumptions about links and devices.

    Attributes:
        up_bit_per_s: Rate of the sender's link.
        down_bit_per_s: Rate of the receiver's link.
        sender_transfer_w: Power of the sender while it sends.
        receiver_transfer_w: Power of the receiver while it receives.
        encode_w: Power of the sender while it encodes; None takes a sensor, or the model of this machine's processor.
        decode_w: Power of the receiver while it decodes; None likewise.
        source: Where the numbers come from.
    """

    up_bit_per_s: float
    down_bit_per_s: float
    sender_transfer_w: float
    receiver_transfer_w: float
    encode_w: float | None = None
    decode_w: float | None = None
    source: str = "given"

    def __post_init__(self) -> None:
        """Refuse rates and powers that cannot be."""
        for name in ("up_bit_per_s", "down_bit_per_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} {getattr(self, name)} is not possible", "give a rate above 0")
        for name in ("sender_transfer_w", "receiver_transfer_w", "encode_w", "decode_w"):
            if not 0 <= (getattr(self, name) or 0.0) < float("inf"):
                raise ConfigError(f"{name} {getattr(self, name)} is not possible", "give a power of 0 or more")

    def send_s(self, size_bytes: float) -> float:
        """Return how long so many bytes are on both links, one after the other."""
        return 8 * size_bytes / self.up_bit_per_s + 8 * size_bytes / self.down_bit_per_s

    def send_j(self, size_bytes: float) -> float:
        """Return what both devices draw meanwhile, each during its own part."""
        up_j = self.sender_transfer_w * 8 * size_bytes / self.up_bit_per_s
        return up_j + self.receiver_transfer_w * 8 * size_bytes / self.down_bit_per_s


def preset(name: str = DEFAULT_PRESET, **changes: Any) -> TransferConfig:
    """Return assumptions by name, some of them changed.

    Args:
        name: ``eeki``, the report's; ``eeki-energies``, with the power that its energies imply; ``world``.
        changes: Fields of `TransferConfig`; None leaves one as it is.

    Raises:
        ConfigError: The name is not known, or a value is not possible.
    """
    known = _presets()
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}", suggestion(name, list(known)))
    asked = {key: value for key, value in changes.items() if value is not None}
    if asked:
        asked["source"] = f"{', '.join(asked)} given; else {known[name]['source']}"
    return to_struct(TransferConfig, known[name] | asked, "transfer")


def preset_names() -> list[str]:
    """Return the names that `preset` knows."""
    return list(_presets())


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    rows = {}
    for row in csv.DictReader(io.StringIO(_data("transfer_presets.csv"))):
        name, source = row.pop("name"), row.pop("source")
        rows[name] = {**{key: float(value) for key, value in row.items()}, "source": source}
    return rows


def _data(name: str) -> str:
    return (files("wattwerk.bench") / "data" / name).read_text(encoding="utf-8")


def report_figures() -> dict[str, float]:
    """Return the figures of the report for ResNet18, in joules and bytes, and the saving that follows from them.

    Source: dena/Fraunhofer HHI, EEKI report, chapter 3.2.
    """
    rows = {row["quantity"]: float(row["value"]) for row in csv.DictReader(io.StringIO(_data("transfer_report.csv")))}
    packed_j = rows["send_energy_j"] + rows["codec_energy_j"]
    return rows | {
        "packed_transfer_energy_j": packed_j,
        "saving_ratio": saving(rows["raw_transfer_energy_j"], packed_j),
    }


def saving(raw_j: float, packed_j: float) -> float:
    """Return the share of the energy that packing saves; negative where it costs more."""
    return 1 - packed_j / raw_j if raw_j else 0.0


def break_even(config: TransferConfig, raw_bytes: float, packed_bytes: float, codec_j: float) -> float | None:
    """Return the upload rate from which packing no longer pays, in bit/s.

    The download is taken to be faster or slower in the same proportion. Coding costs the same at any rate, while both
    transfers get cheaper with it; so there is one rate at which they cost the same.

    Args:
        config: The assumptions; only the proportion of the rates counts.
        raw_bytes: Size as it is.
        packed_bytes: Size of the stream.
        codec_j: Energy of encoding and decoding.

    Returns:
        The rate, or None where there is none: packing pays at no rate, or at every one.
    """
    saved_j = config.send_j(raw_bytes) - config.send_j(packed_bytes)
    if saved_j <= 0 or codec_j <= 0:
        return None
    return config.up_bit_per_s * saved_j / codec_j


def balance(config: TransferConfig, raw_bytes: int, packed_bytes: int, encode: Work, decode: Work) -> dict[str, Figure]:
    """Return the figures of a record of kind ``transfer``; docs/records.md says what they mean.

    Args:
        config: The assumptions.
        raw_bytes: Size of the model file.
        packed_bytes: Size of the stream.
        encode: What encoding took.
        decode: What decoding took.
    """
    raw_j, send_j = config.send_j(raw_bytes), config.send_j(packed_bytes)
    packed = _sum(send_j, encode.energy, decode.energy)
    note = config.source
    return {
        "raw_size_bytes": measured(raw_bytes),
        "packed_size_bytes": measured(packed_bytes),
        "size_saving_ratio": derived(1 - packed_bytes / raw_bytes if raw_bytes else 0.0),
        "encode_s": measured(encode.wall_s),
        "encode_cpu_s": measured(encode.cpu_s),
        "decode_s": measured(decode.wall_s),
        "decode_cpu_s": measured(decode.cpu_s),
        "raw_transfer_s": Figure(config.send_s(raw_bytes), Provenance.MODELLED, note=note),
        "packed_transfer_s": Figure(
            encode.wall_s + config.send_s(packed_bytes) + decode.wall_s,
            Provenance.MODELLED,
            note="encode, then send, then decode",
        ),
        "raw_transfer_energy_j": Figure(raw_j, Provenance.MODELLED, Scope.NODE, note=note),
        "send_energy_j": Figure(send_j, Provenance.MODELLED, Scope.NODE, note=note),
        "encode_energy_j": encode.energy,
        "decode_energy_j": decode.energy,
        "packed_transfer_energy_j": packed,
        "saving_ratio": _saving(raw_j, packed),
        "break_even_link_rate_bit_per_s": _break_even(config, raw_bytes, packed_bytes, encode, decode),
    }


def _sum(send_j: float, *codec: Figure) -> Figure:
    """Add up what happens one after the other, so that different scopes do not overlap."""
    low, value, high = (send_j + part for part in _codec_j(codec))
    scopes = {figure.scope.value for figure in codec if figure.scope}
    note = f"the link: whole devices; the codec: {' and '.join(sorted(scopes))}"
    return Figure(value, Provenance.MODELLED, Scope.NODE, low, high, note)


def _codec_j(codec: tuple[Figure, ...]) -> tuple[float, float, float]:
    low = sum((figure.value if figure.low is None else figure.low) or 0.0 for figure in codec)
    high = sum((figure.value if figure.high is None else figure.high) or 0.0 for figure in codec)
    return low, sum(figure.value or 0.0 for figure in codec), high


def _saving(raw_j: float, packed: Figure) -> Figure:
    if raw_j <= 0:
        return unavailable("sending costs nothing under these assumptions")
    value, low, high = (saving(raw_j, part or 0.0) for part in (packed.value, packed.high, packed.low))
    return Figure(value, Provenance.MODELLED, None, low, high, "of the raw transfer's energy")


def _break_even(config: TransferConfig, raw: int, packed: int, encode: Work, decode: Work) -> Figure:
    low_j, value_j, high_j = _codec_j((encode.energy, decode.energy))
    value = break_even(config, raw, packed, value_j)
    if value is None:
        return unavailable("coding costs nothing" if packed < raw else "the stream is no smaller than the model")
    low, high = (break_even(config, raw, packed, part) for part in (high_j, low_j))
    note = "upload; the download in the same proportion. Below it, packing pays"
    return Figure(value, Provenance.MODELLED, None, low, high, note)
