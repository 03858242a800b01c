"""How an SNMP agent is reached, who asks it, and what for: the options of the SNMP meter.

Source: IETF RFC 3414 (user-based security model), RFC 3826 and its successors (ciphers); pysnmp 7.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.mapped import MappedChannel, load_library, secret

_OID: Final = re.compile(r"\.?\d+(\.\d+)+")
WHERE: Final = "meters.snmp"
_AUTH: Final = {
    "none": "USM_AUTH_NONE",
    "md5": "USM_AUTH_HMAC96_MD5",
    "sha": "USM_AUTH_HMAC96_SHA",
    "sha224": "USM_AUTH_HMAC128_SHA224",
    "sha256": "USM_AUTH_HMAC192_SHA256",
    "sha384": "USM_AUTH_HMAC256_SHA384",
    "sha512": "USM_AUTH_HMAC384_SHA512",
}
_PRIVACY: Final = {
    "none": "USM_PRIV_NONE",
    "des": "USM_PRIV_CBC56_DES",
    "aes128": "USM_PRIV_CFB128_AES",
    "aes192": "USM_PRIV_CFB192_AES",
    "aes256": "USM_PRIV_CFB256_AES",
}


class SnmpChannel(MappedChannel, frozen=True, kw_only=True):
    """One number of an SNMP agent.

    Attributes:
        oid: The object's numbers, its instance included: ``1.3.6.1.4.1.318.1.1.26.4.3.1.5.1``.
        bits: How wide a counter is, for its wrap-around; by default what the type Counter32 or Counter64 says.
        digits_oid: The object that tells how many decimal digits the number has; empty where there is none.

    Raises:
        ConfigError: As for ``MappedChannel``; the OID is none.
    """

    oid: str
    bits: Literal[32, 64] | None = None
    digits_oid: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("oid", "digits_oid"):
            value = getattr(self, key)
            if not _OID.fullmatch(value) and (value or key == "oid"):
                raise ConfigError(
                    f"channel {self.name}: {key} = {value!r} is no OID",
                    "write its numbers with dots, the instance included; `snmptranslate -On` turns a name into them",
                )


class SnmpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the SNMP meter.

    Attributes:
        host: The agent's name or address.
        port: Its UDP port.
        version: ``1``, ``2c`` or ``3``.
        community: What versions 1 and 2c have for a password.
        community_env: The environment variable that holds it, instead of it.
        user: The user's name, for version 3.
        auth: How version 3 proves who asks: ``none``, ``md5``, ``sha``, ``sha224``, ``sha256``, ``sha384``, ``sha512``.
        auth_password: The password for that.
        auth_password_env: The environment variable that holds it, instead of it.
        privacy: How version 3 encrypts: ``none``, ``des``, ``aes128``, ``aes192``, ``aes256``.
        privacy_password: The password for that.
        privacy_password_env: The environment variable that holds it, instead of it.
        context: The context's name, for version 3; empty for the usual one.
        preset: The name of a known device whose channels are read, before those in ``channels``.
        prefix: What the names of a preset's channels begin with.
        outlets: Numbers of the outlets to read one by one, for presets that have them.
        channels: What else to read.
        timeout_s: What a read may take, in seconds; the request is sent a second time after half of it.
        interval_s: How far apart reads make sense, in seconds.
        latency_s: How far the values lag behind, in seconds. No MIB of a preset states it, so 0 unless known.
    """

    host: str
    port: int = 161
    version: Literal["1", "2c", "3"] = "2c"
    community: str = ""
    community_env: str = ""
    user: str = ""
    auth: Literal["none", "md5", "sha", "sha224", "sha256", "sha384", "sha512"] = "none"
    auth_password: str = ""
    auth_password_env: str = ""
    privacy: Literal["none", "des", "aes128", "aes192", "aes256"] = "none"
    privacy_password: str = ""
    privacy_password_env: str = ""
    context: str = ""
    preset: str = ""
    prefix: str = "pdu0"
    outlets: list[int] = []
    channels: list[SnmpChannel] = []
    timeout_s: float = 2.0
    interval_s: float = 1.0
    latency_s: float = 0.0


def credentials(snmp: Any, config: SnmpConfig) -> Any:
    """Return what pysnmp needs to know about who asks.

    Raises:
        ConfigError: Something is missing or does not fit the version.
        UnavailableError: The library that encrypts is not installed.
    """
    if config.version != "3":
        community = secret(config.community, config.community_env, f"{WHERE}: community")
        if not community:
            raise ConfigError(f"{WHERE}: no community", "set community or community_env; many devices have public")
        return snmp.CommunityData(community, mpModel=0 if config.version == "1" else 1)
    if not config.user:
        raise ConfigError(f"{WHERE}: version 3 without a user", "set user")
    if config.privacy != "none":
        if config.auth == "none":
            raise ConfigError(f"{WHERE}: privacy without auth", "set auth as well, such as sha256")
        load_library("cryptography", "SNMP with privacy")
    return snmp.UsmUserData(
        config.user,
        _password(config, "auth"),
        _password(config, "privacy"),
        authProtocol=getattr(snmp, _AUTH[config.auth]),
        privProtocol=getattr(snmp, _PRIVACY[config.privacy]),
    )


def _password(config: SnmpConfig, kind: Literal["auth", "privacy"]) -> str | None:
    if getattr(config, kind) == "none":
        return None
    key = f"{kind}_password"
    password = secret(getattr(config, key), getattr(config, f"{key}_env"), f"{WHERE}: {key}")
    if len(password) < 8:  # RFC 3414, 11.2
        raise ConfigError(f"{WHERE}: {key} has fewer than 8 characters", f"set {key} or {key}_env")
    return password
