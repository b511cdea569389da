"""docs/architecture.md names what exists: every path it shows is there, and no module of the broker is left out."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
# Paths in backquotes that belong to the repository.
PATHS = re.compile(r"`((?:broker|clients|protos|tests|docs|benchmarks|deploy)/[\w./-]*)`")


def test_every_path_on_the_page_exists() -> None:
    paths = PATHS.findall(PAGE.read_text())
    assert len(paths) > 50, "the pattern no longer finds the paths of the page"
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_module_of_the_broker_is_on_the_page() -> None:
    text = PAGE.read_text()
    modules = [path.relative_to(ROOT) for path in ROOT.glob("broker/**/*.py") if path.name != "__init__.py"]
    assert modules
    assert [str(module) for module in modules if f"`{module}`" not in text] == []
