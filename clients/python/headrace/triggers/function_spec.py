"""What is known of a function before it runs, and the environment its worker gets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What a function may not set, because the runtime client reads it. Source: AWS Lambda Developer Guide, "Defined runtime
# environment variables".
_RESERVED_PREFIXES: Final = ("AWS_LAMBDA_", "_LAMBDA_")
_RESERVED_NAMES: Final = frozenset(
    {"_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_REGION", "LAMBDA_TASK_ROOT"}
)
_NOT_RESERVED: Final = frozenset({"AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """A user's function, ready to run."""

    name: str
    arn: str
    region: str
    handler: str
    """ "module.function"."""
    code_dir: Path
    """The folder that holds the module."""
    environment: Mapping[str, str]
    timeout_s: int
    memory_size_mb: int


def worker_environment(
    spec: FunctionSpec, runtime_api_address: str, log_stream_name: str, telemetry_fd: int
) -> dict[str, str]:
    """All the environment a worker gets; what AWS reserves wins over what the user set."""
    defaults = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": ":UTC"}
    own = {name: value for name, value in spec.environment.items() if not is_reserved(name)}
    runtime = {
        "AWS_LAMBDA_RUNTIME_API": runtime_api_address,
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_size_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream_name,
        "AWS_DEFAULT_REGION": spec.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_REGION": spec.region,
        "LAMBDA_TASK_ROOT": str(spec.code_dir),
        "_HANDLER": spec.handler,
        "_LAMBDA_TELEMETRY_LOG_FD": str(telemetry_fd),
    }
    return defaults | own | runtime


def is_reserved(name: str) -> bool:
    """Whether an environment variable is the runtime's own, so that a function may not set it."""
    if name in _NOT_RESERVED:
        return False
    return name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIXES)
