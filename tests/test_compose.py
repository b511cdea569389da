"""compose.yaml and the Dockerfile agree with each other and with the command line; no container engine is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from headrace.cli import main

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_there_are_two_regions_a_trigger_host_and_a_replicator() -> None:
    commands = [service["command"] for service in SERVICES.values()]
    regions = {command[command.index("--region") + 1] for command in commands if command[0] == "serve"}
    assert len(regions) == 2
    assert [command[0] for command in commands if command[0] != "serve"] == ["trigger-host", "replicator"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gives_only_options_its_command_has(name: str) -> None:
    command, *arguments = SERVICES[name]["command"]
    usage = CliRunner().invoke(main, [command, "--help"])
    assert usage.exit_code == 0, usage.output
    assert [option for option in arguments if option.startswith("--") and option not in usage.output] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_until_what_it_needs_is_healthy(name: str) -> None:
    service = SERVICES[name]
    endpoint = service.get("environment", {}).get("HEADRACE_ENDPOINT")
    if endpoint is None:
        assert service["command"][0] == "serve"
        return
    host, port = endpoint.split(":")
    served = SERVICES[host]["command"]
    assert served[served.index("--grpc") + 1].endswith(f":{port}")
    assert service["depends_on"][host] == {"condition": "service_healthy"}


def test_a_broker_keeps_its_data_in_a_volume_and_nothing_else_is_writable() -> None:
    for service in SERVICES.values():
        assert service["read_only"] is True
        if service["command"][0] == "serve":
            (volume,) = service["volumes"]
            source, target = volume.split(":")
            assert source in COMPOSE["volumes"]
            assert f"VOLUME {target}\n" in DOCKERFILE
            assert target in service["command"]


# In shell form a shell is the first process. It does not hand on SIGTERM: the broker would be killed, not drained.
def test_the_image_gets_its_signals_and_is_not_root() -> None:
    entrypoint = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    assert entrypoint is not None
    assert json.loads(entrypoint[1]) == ["headrace"]
    assert "\nSTOPSIGNAL SIGTERM\n" in DOCKERFILE
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
