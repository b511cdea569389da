"""Writes headrace/_sync from headrace/_async: the same client for threads, by putting one name for another.

    python clients/python/unasync.py            rewrite headrace/_sync
    python clients/python/unasync.py --check    exit 1 and name the files that are not what they would be

What asyncio and threads do differently is in headrace/_concurrency.py, so names are all there is to change. ruff then
gives the result the form that the rest of the code has.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "headrace"

GENERATED = "# Generated from headrace/_async/{name} by clients/python/unasync.py; never edited.\n\n"

# Applied in this order, to whole words.
REPLACEMENTS = [
    (r"grpc\.aio", "grpc"),
    (r"async with", "with"),
    (r"async for", "for"),
    (r"async def", "def"),
    (r"await ", ""),
    (r"AsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"Awaitable\[object\]", "object"),
    (r"AsyncIterable\[Operation\] \| Iterable\[Operation\]", "Iterable[Operation]"),
    (r"AsyncGenerator, AsyncIterable", "Generator"),
    (r"Async(?=[A-Z])", ""),
    (r"async_(?=[a-z])", ""),
    (r"open_async_channel", "open_channel"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"__aiter__", "__iter__"),
    (r"__anext__", "__next__"),
    (r"aclosing", "closing"),
    (r"anext", "next"),
    (r"_async", "_sync"),
    (r"asyncio", "threads"),
    (r"tasks of one event loop", "threads"),
]


def to_sync(name: str, source: str) -> str:
    """The text of a module of _sync, given that of the module of _async."""
    for pattern, replacement in REPLACEMENTS:
        source = re.sub(rf"\b{pattern}" if pattern[0].isalpha() else pattern, replacement, source)
    for arguments in (["check", "--select", "F401,F811,I,UP028", "--fix-only", "--unsafe-fixes"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--stdin-filename", str(PACKAGE / name), "-"]
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return GENERATED.format(name=name) + source


def main() -> int:
    """Writes the files, or checks them; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is stale")
    is_check = parser.parse_args().check
    wanted = {path.name: to_sync(path.name, path.read_text()) for path in sorted((PACKAGE / "_async").glob("*.py"))}
    present = {path.name: path.read_text() for path in sorted((PACKAGE / "_sync").glob("*.py"))}
    stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    for name in stale:
        path = PACKAGE / "_sync" / name
        if is_check:
            print(f"stale: {path.relative_to(PACKAGE.parent)}: run python clients/python/unasync.py")
        elif name in wanted:
            path.write_text(wanted[name])
        else:
            path.unlink()
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
