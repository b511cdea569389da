"""What the log of a broker looks like."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging
from broker.telemetry import log_to_stderr
log_to_stderr("INFO")
logging.getLogger("a").info("two\\nlines count=%d", 2)
try:
    raise KeyError("it's\\nlost")
except KeyError:
    logging.getLogger("b").exception("failed")
class ExecuteBatchError(Exception): pass
try:
    raise ExecuteBatchError
except ExecuteBatchError:
    logging.getLogger("grpc._cython.cygrpc").exception("the client has left")
logging.getLogger("grpc._cython.cygrpc").error("something else")
"""


def test_each_entry_is_one_line_also_with_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=20, check=True)
    first, second, third = done.stderr.splitlines()
    assert first.endswith(r"level=INFO logger=a message='two\nlines count=2'")
    assert " level=ERROR logger=b message='failed' traceback=" in second
    assert "Traceback (most recent call last)" in second
    assert "KeyError" in second
    assert third.endswith("logger=grpc._cython.cygrpc message='something else'")
