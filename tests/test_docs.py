"""Runs what the pages show, so that no example is wrong, and follows their links.

The `python`, `sh` and `console` blocks of a page run one after the other in one temporary folder, each in a process of
its own, against one broker (HEADRACE_ENDPOINT, and AWS_ENDPOINT_URL, where it lets anybody in). A console block is a
transcript: after a line that begins with "$ " comes what the command prints, where "..." stands for anything; what is
left out is not compared. Every command must exit with 0.
A comment on the line before a block changes this:

    <!-- not run: REASON -->     the block needs what a test does not have
    <!-- file: NAME -->          the block is the content of that file in the folder
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.broker_process import BrokerProcess

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "clients/python/*.md", "tests/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
)
RUNNABLE = ("python", "sh", "console")
BLOCK_TIMEOUT_S = 60

_BLOCK = re.compile(
    r"(?:^<!-- (?P<order>[^>]*?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    order: str
    text: str

    @property
    def reason_not_run(self) -> str | None:
        """Why the block does not run; None if it does."""
        return self.order.removeprefix("not run:").strip() if self.order.startswith("not run:") else None

    @property
    def file_name(self) -> str | None:
        """The file that the block is the content of; None if it is none."""
        return self.order.removeprefix("file:").strip() if self.order.startswith("file:") else None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that a reader may try."""
    text = page.read_text()
    return [
        Block(
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            order=match["order"] or "",
            text=match["text"],
        )
        for match in _BLOCK.finditer(text)
        if match["language"] in RUNNABLE
    ]


def commands_of(transcript: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output shown for it."""
    for part in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            line, _, output = output.partition("\n")
            command = f"{command}\n{line}"
        yield command, output


def page_id(page: Path) -> str:
    """A page's path, as a test's name."""
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.reason_not_run is None for block in blocks_of(page))], ids=page_id
)
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    with BrokerProcess(tmp_path / "broker", extra=("--auth", "none")) as broker:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        environment["HEADRACE_ENDPOINT"] = broker.grpc
        environment |= {"AWS_ENDPOINT_URL": f"http://{broker.http}", "AWS_DEFAULT_REGION": broker.region}
        environment |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

        def run(*command: str, where: str) -> str:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BLOCK_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"{where} exits with {done.returncode}:\n{done.stdout}"
            return done.stdout

        checker = doctest.OutputChecker()
        for block in blocks_of(page):
            where = f"{page_id(page)}:{block.line}"
            if block.reason_not_run is not None:
                continue
            if block.file_name is not None:
                (folder / block.file_name).write_text(block.text)
            elif block.language == "python":
                run(sys.executable, "-c", block.text, where=where)
            elif block.language == "sh":
                run("bash", "-euo", "pipefail", "-c", block.text, where=where)
            else:
                for command, shown in commands_of(block.text):
                    printed = run("bash", "-euo", "pipefail", "-c", command, where=where)
                    matches = checker.check_output(shown, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
                    assert not shown.strip() or matches, f"{where}: {command}\nshown:\n{shown}\nprinted:\n{printed}"


# A block without a language would never run, and nobody would notice.
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_each_block_names_its_language_and_why_it_does_not_run(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
    assert all(fences[::2]), f"{page_id(page)} has a block without a language; use `text` for what is not code"
    for block in blocks_of(page):
        assert block.reason_not_run != "", f"{page_id(page)}:{block.line} does not say why it is not run"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    broken = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = _TEST.findall(text)
    assert len(named) == text.count("::test_")
    for path, name in named:
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, f"{path} has no {name}"


def test_a_transcript_is_read_as_commands_and_their_output() -> None:
    transcript = "$ echo one \\\n    two\none two\n$ true\n$ echo three\nthree\n"
    assert list(commands_of(transcript)) == [
        ("echo one \\\n    two", "one two\n"),
        ("true", ""),
        ("echo three", "three\n"),
    ]
