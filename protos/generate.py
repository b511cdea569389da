"""Generates clients/python/headrace/v1 from protos/headrace/v1, and with --check proves that it is fresh.

The tools are pinned to the oldest toolchain we support, because generated code refuses any older runtime
(docs/decisions/0005). They are installed by `make proto` into an environment of their own.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS.parent / "clients" / "python" / "headrace" / "v1"


def generate(target: Path) -> None:
    """Writes the modules and type stubs of every proto file into the folder `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        includes = (PROTOS, Path(protoc.__file__).parent / "_proto")
        plugins = ("python", "grpc_python", "mypy", "mypy_grpc")
        arguments = ["protoc", *(f"-I{include}" for include in includes)]
        arguments += [f"--{plugin}_out={'quiet:' if 'mypy' in plugin else ''}{scratch}" for plugin in plugins]
        files = sorted(str(path) for path in PROTOS.glob("headrace/v1/*.proto"))
        if protoc.main([*arguments, *files]) != 0:
            raise SystemExit("protoc failed")
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*_pb2*"):
            old.unlink()
        for module in sorted(Path(scratch, "headrace", "v1").iterdir()):
            if "_pb2_grpc" in module.name and "_service_" not in module.name:
                continue
            shutil.copy(module, target / module.name)
        (target / "__init__.py").write_text('"""Generated from protos/headrace/v1; never edited."""\n')


def main() -> None:
    """Generates, or with --check compares and exits with 1 if the committed code is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generate(TARGET)
        return
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        names = sorted({path.name for folder in (TARGET, Path(fresh)) for path in folder.glob("*.py*")})
        stale = [name for name in names if not _same(TARGET / name, Path(fresh, name))]
    if stale:
        sys.exit(f"stale generated code, run `make proto`: {', '.join(stale)}")


def _same(committed: Path, fresh: Path) -> bool:
    return committed.exists() and fresh.exists() and filecmp.cmp(committed, fresh, shallow=False)


if __name__ == "__main__":
    main()
