"""docs/architecture.md names what exists: every path it shows is there, and no module of the broker is left out.

The list of decisions has every page, each under a number of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs" / "decisions"
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


def test_every_decision_has_a_number_of_its_own_and_a_row_in_order() -> None:
    pages = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    numbers = [name[:4] for name in pages]
    assert [number for number in set(numbers) if numbers.count(number) > 1] == []
    assert [name for name in pages if not (DECISIONS / name).read_text().startswith(f"# {name[:4]}: ")] == []
    rows = re.findall(r"^\| \[(\d{4})\]\((.*?)\)", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name[:4], name) for name in pages]
