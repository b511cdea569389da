"""The first lines of a worker process: tie it to the trigger host, bound its memory, become the runtime client.

Run as a script by worker.py: `python -P launch.py HOST_PID MEMORY_LIMIT_BYTES HANDLER`. It imports nothing of headrace,
so that the function's own modules are the first of their names in the process.
"""

import ctypes
import os
import resource
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Prepares this process and runs the handler until the process ends."""
    host_pid, memory_limit_bytes, handler = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

    # A worker whose host was killed would go on without anybody to enforce its time limit, beside the worker that the
    # next host starts for the same batch.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != host_pid:
            sys.exit("the trigger host is gone")
        # RLIMIT_DATA counts what can be written, not what is merely reserved (RLIMIT_AS does: a thread's malloc arena
        # alone reserves 64 MiB). Running into it is a MemoryError, an ordinary error of the function.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))

    # What `python -m awslambdaric HANDLER` does: the working folder, which holds the code, comes first on the path.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - pathlib would cost each cold start
    sys.argv = ["awslambdaric", handler]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)


main()
