"""The broker's settings: file, then environment, then flags; the last one given wins. Unknown keys are errors."""

from __future__ import annotations

import configparser
import ipaddress
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from broker.model.tables import REGION_NAME
from broker.storage.private import NotPrivateError, check_private_file

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX: Final = "HEADRACE_"
AUTHS: Final = ("sigv4", "none")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
UPKEEP_INTERVAL_SECONDS_MIN: Final = 0.1
UPKEEP_INTERVAL_SECONDS_MAX: Final = 3600.0
_KEY_FIELDS: Final = ("aws_access_key_id", "aws_secret_access_key")
_ANY_ORIGIN: Final = "*"
_PORT_MAX: Final = 65_535


class ConfigError(Exception):
    """A setting that cannot be; the message is one line that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a broker."""

    # The folder of the store; made if it does not exist.
    data: str = "./headrace-data"
    # The folder of the backups, on the file system of `data`; empty: the folder "backups" in `data`.
    backups: str = ""
    # The region's name in ARNs, versions and records: 1 to 64 characters of a-z, 0-9 and '-'. A store belongs to one
    # region.
    region: str = "local"
    # Where gRPC listens; port 0 takes any free one.
    grpc: str = "127.0.0.1:7420"
    # Where HTTP (AWS's JSON protocol, health, metrics) listens; port 0 takes any free one.
    http: str = "127.0.0.1:7421"
    # Who may use AWS's JSON protocol: "sigv4", who signs with an access key of `credentials`; "none", anybody.
    auth: str = "sigv4"
    # A file of access keys in the format of AWS's shared credentials file; all its profiles may sign. Empty: nobody.
    credentials: str = ""
    # Origins of web pages that may call AWS's protocol, such as "https://app.example", separated by commas; "*" allows
    # all. Empty: all if requests must be signed, none if anybody may call.
    cors_origins: str = ""
    # Off loopback the broker refuses to listen without encryption unless this says so.
    insecure: bool = False
    # How often a node trims its streams and looks at their write rates, in seconds, at least 0.1. Records are held
    # up to so much longer than a table asks for.
    upkeep_interval_seconds: float = 10.0
    # Writes that need room are refused while the file system of `data` has less than this free, in bytes; at most an
    # eighth of it is kept back.
    disk_reserve_bytes: int = 1024 * 1024 * 1024
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        """Raises ConfigError for a value that cannot be."""
        if REGION_NAME.fullmatch(self.region) is None:
            raise ConfigError(f"region: {self.region!r} must have 1 to 64 characters of a-z, 0-9 and '-'")
        if not UPKEEP_INTERVAL_SECONDS_MIN <= self.upkeep_interval_seconds <= UPKEEP_INTERVAL_SECONDS_MAX:
            raise ConfigError(
                f"upkeep_interval_seconds: {self.upkeep_interval_seconds} must be from "
                f"{UPKEEP_INTERVAL_SECONDS_MIN} to {UPKEEP_INTERVAL_SECONDS_MAX}"
            )
        if self.disk_reserve_bytes < 0:
            raise ConfigError(f"disk_reserve_bytes: {self.disk_reserve_bytes} must be at least 0")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level: {self.log_level!r} must be one of {', '.join(LOG_LEVELS)}")
        if self.auth not in AUTHS:
            raise ConfigError(f"auth: {self.auth!r} must be one of {', '.join(AUTHS)}")
        for origin in self._named_origins():
            _check_origin(origin)
        for key in ("grpc", "http"):
            host, _ = split_address(key, getattr(self, key))
            if not self.insecure and not _is_loopback(host):
                raise ConfigError(
                    f"{key}: {host} is not a loopback address and this version does not encrypt; "
                    "set insecure to listen there all the same"
                )

    @property
    def backups_folder(self) -> Path:
        """The folder of the backups."""
        return Path(self.backups) if self.backups else Path(self.data) / "backups"

    @property
    def allowed_origins(self) -> frozenset[str] | None:
        """The origins of web pages that may call AWS's protocol; None if all may."""
        origins = frozenset(self._named_origins())
        is_open = _ANY_ORIGIN in origins or (not origins and self.auth != "none")
        return None if is_open else origins

    def _named_origins(self) -> list[str]:
        return [origin.strip() for origin in self.cors_origins.split(",")] if self.cors_origins else []

    def access_keys(self) -> dict[str, str]:
        """The secret of each access key id in `credentials`. Raises ConfigError."""
        if not self.credentials:
            return {}
        profiles = configparser.ConfigParser(interpolation=None)
        try:
            check_private_file(Path(self.credentials), os.geteuid())
            profiles.read_string(Path(self.credentials).read_text())
        except NotPrivateError as error:
            raise ConfigError(f"credentials: {error}") from None
        except (OSError, ValueError, configparser.Error) as error:
            # What configparser says quotes the line, which may be a secret.
            raise ConfigError(
                f"credentials: {self.credentials} cannot be read as profiles of access keys ({type(error).__name__})"
            ) from None
        keys: dict[str, str] = {}
        for name in profiles.sections():
            profile = profiles[name]
            id_, secret = (profile.get(field, "") for field in _KEY_FIELDS)
            if not id_ or not secret:
                raise ConfigError(
                    f"credentials: profile {name} of {self.credentials} must have {' and '.join(_KEY_FIELDS)}"
                )
            if keys.setdefault(id_, secret) != secret:
                raise ConfigError(f"credentials: {self.credentials} has two secrets for the access key {id_}")
        return keys


def _check_origin(origin: str) -> None:
    """Raise ConfigError unless a text is `*` or an origin as browsers send it."""
    if origin == _ANY_ORIGIN:
        return
    try:
        parts = urlsplit(origin)
        # Reading the port checks it.
        has_host = bool(parts.scheme and parts.hostname) and parts.port != 0
        is_origin = has_host and origin == f"{parts.scheme}://{parts.netloc}".lower()
    except ValueError:
        is_origin = False
    if not is_origin:
        raise ConfigError(f"cors_origins: {origin!r} must be * or an origin such as https://app.example:8443")


def split_address(key: str, address: str) -> tuple[str, int]:
    """HOST:PORT as its parts. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > _PORT_MAX:
        raise ConfigError(f"{key}: {address!r} must be HOST:PORT with a port from 0 to {_PORT_MAX}")
    return host.strip("[]"), int(port)


def load(
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    defaults: Mapping[str, object] | None = None,
) -> Config:
    """The settings in force; `defaults` are instead of those of Config. Raises ConfigError that names the key."""
    values: dict[str, object] = dict(defaults or {})
    if file is not None:
        try:
            values |= _checked(tomllib.loads(file.read_text()), str(file))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: {error}") from error
    for field in fields(Config):
        name = ENVIRONMENT_PREFIX + field.name.upper()
        if name in environment:
            values[field.name] = _parsed(name, environment[name], type(field.default))
    values |= _checked({key: value for key, value in flags.items() if value is not None}, "flags")
    return Config(**values)  # type: ignore[arg-type]


def _checked(values: dict[str, object], source: str) -> dict[str, object]:
    known = {field.name: type(field.default) for field in fields(Config)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{source}: unknown key {key!r}; known keys: {', '.join(sorted(known))}")
        if known[key] is float and type(value) is int:
            values[key] = float(value)
        elif type(value) is not known[key]:
            raise ConfigError(f"{source}: {key} must be a {known[key].__name__}, is {value!r}")
    return values


def _parsed(name: str, text: str, wanted: type) -> object:
    if wanted is bool:
        return _boolean(name, text)
    if wanted is int:
        try:
            return int(text)
        except ValueError as error:
            raise ConfigError(f"environment: {name} must be a whole number, is {text!r}") from error
    if wanted is float:
        try:
            return float(text)
        except ValueError as error:
            raise ConfigError(f"environment: {name} must be a number, is {text!r}") from error
    return text


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no", ""):
        return False
    raise ConfigError(f"environment: {name} must be true or false, is {text!r}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
