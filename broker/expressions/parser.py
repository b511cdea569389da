"""Tokens of an expression, and what all kinds of expressions share: names, paths, limits, errors.

Text is parsed once: the tree holds placeholders as they stand there, so it serves all requests with the same text.
Source: Developer Guide, "Using expressions in DynamoDB"; error texts follow the service in substance.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from broker.expressions.reserved import RESERVED_WORDS
from broker.model.values import NESTING_LEVELS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.expressions.paths import Path
    from broker.expressions.placeholders import Placeholders, Where

EXPRESSION_BYTES_MAX: Final = 4096
OPERATORS_MAX: Final = 300
# Of parentheses, functions and NOT; so that a reader of the tree cannot run out of stack.
DEPTH_MAX: Final = 100
# Trees of so many texts are kept, each of at most 4 KB of text.
TREES_KEPT_MAX: Final = 1024
# The names and indexes of a path: an item has no more levels, so a longer path can lead nowhere.
PATH_STEPS_MAX: Final = NESTING_LEVELS_MAX
# The greatest index of a list element, as the service has it; far beyond the end of any list.
LIST_INDEX_MAX: Final = 2**32 - 2
_CONTEXT_TOKENS: Final = 2

_TOKEN: Final = re.compile(
    r"[ \t\r\n]*([A-Za-z][A-Za-z0-9_]*|[#:][A-Za-z0-9_]+|[0-9]+|<>|<=|>=|[=<>().,\[\]+-]|[^ \t\r\n])", re.ASCII
)
_KEYWORDS: Final = frozenset(("AND", "OR", "NOT", "BETWEEN", "IN", "SET", "REMOVE", "ADD", "DELETE"))
END: Final = "<EOF>"


class ValueRef(NamedTuple):
    """A :placeholder."""

    reference: str


class PathRef(NamedTuple):
    """A document path, whose names may be #placeholders."""

    steps: Path
    has_placeholders: bool

    def resolved(self, placeholders: Placeholders, where: Where) -> Path:
        """The path with its names. Raises ValidationError if one is not defined."""
        steps = self.steps
        if self.has_placeholders:
            steps = tuple(
                [placeholders.name(step, where) if isinstance(step, str) and step[0] == "#" else step for step in steps]
            )
        if len(steps) > 1:
            placeholders.note_parent(steps[0], where)
        return steps


class Wrapped(NamedTuple):
    """A node that stood in parentheses; only while an expression is parsed."""

    node: object


def unwrapped(node: object) -> object:
    """Return a node without the parentheses around it."""
    return node.node if isinstance(node, Wrapped) else node


class Parser:
    """The tokens of one expression, read from left to right."""

    def __init__(self, text: str, where: Where) -> None:
        """Raises ValidationError if there are no tokens, or too many bytes of them."""
        self._where = where
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > EXPRESSION_BYTES_MAX:
            where.fail(
                f"Expression size has exceeded the maximum allowed size; expression size: {size}",
                limit=EXPRESSION_BYTES_MAX,
            )
        self._tokens: list[str] = _TOKEN.findall(text)
        self._tokens.append(END)
        self._position = 0
        self._operators = 0
        self._depth = 0
        # What is wrong though the grammar allows it; by rank, for the service tells them in an order of its own. Each
        # is a text and the metadata of its error.
        self._faults: dict[int, tuple[str, dict[str, object]]] = {}
        if len(self._tokens) == 1:
            where.fail("The expression can not be empty;")

    @property
    def upcoming(self) -> str:
        """The token that comes next."""
        return self._tokens[self._position]

    def is_keyword(self, word: str) -> bool:
        """Whether a keyword comes next, in any case."""
        return self.upcoming.upper() == word

    def accept(self, token: str) -> bool:
        """Takes a token if it comes next."""
        if self.upcoming != token:
            return False
        self._position += 1
        return True

    def accept_keyword(self, word: str) -> bool:
        """Takes a keyword if it comes next."""
        if not self.is_keyword(word):
            return False
        self._position += 1
        return True

    def expect(self, token: str) -> None:
        """Takes a token that must come next."""
        if not self.accept(token):
            self.fail()

    def expect_keyword(self, word: str) -> None:
        """Takes a keyword that must come next."""
        if not self.accept_keyword(word):
            self.fail()

    def function(self) -> str | None:
        """Takes the name of a function and its opening parenthesis, if they come next."""
        if self.upcoming[0].isalpha() and self._tokens[self._position + 1] == "(" and not self._is_any_keyword():
            name = self.upcoming
            self._position += 2
            return name
        return None

    def arguments(self, argument: Callable[[], object]) -> list[object]:
        """Takes the arguments of a function, and the parenthesis that ends them."""
        arguments: list[object] = []
        self.enter()
        if not self.accept(")"):
            arguments.append(argument())
            while self.accept(","):
                arguments.append(argument())
            self.expect(")")
        self.leave()
        return arguments

    def wrapped(self, node: object) -> Wrapped:
        """Return a node with parentheses around it; two pairs around the same node are a fault."""
        if isinstance(node, Wrapped):
            self.fault(PARENTHESES_RANK, "The expression has redundant parentheses;")
        return Wrapped(unwrapped(node))

    def value(self) -> ValueRef:
        """Takes a :placeholder."""
        if self.upcoming[0] != ":" or len(self.upcoming) == 1:
            self.fail()
        self._position += 1
        return ValueRef(self._tokens[self._position - 1])

    def path(self) -> PathRef:
        """Takes a document path."""
        steps: list[str | int] = [self._name()]
        while True:
            if self.accept("."):
                steps.append(self._name())
            elif self.accept("["):
                steps.append(self._index())
                self.expect("]")
            else:
                break
        if len(steps) > PATH_STEPS_MAX:
            self.fault(
                NESTING_RANK,
                f"The document path has too many nesting elements; nesting levels: {len(steps)}",
                limit=PATH_STEPS_MAX,
            )
        return PathRef(tuple(steps), any(isinstance(step, str) and step[0] == "#" for step in steps))

    def operator(self) -> None:
        """Counts an operator or function."""
        self._operators += 1

    def enter(self) -> None:
        """Goes one level deeper. Raises ValidationError if that is too deep."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._where.fail(f"The expression nests too deep; limit: {DEPTH_MAX} levels", limit=DEPTH_MAX)

    def leave(self) -> None:
        """Comes back from a level."""
        self._depth -= 1

    def fault(self, rank: int, what: str, **metadata: object) -> None:
        """Notes what is wrong with an expression that is grammatical; the lowest rank is told."""
        self._faults.setdefault(rank, (what, metadata))

    def finish(self) -> None:
        """Raises ValidationError for what follows the expression, and for any fault."""
        if self.upcoming != END:
            self.fail()
        if self._faults:
            what, metadata = self._faults[min(self._faults)]
            self._where.fail(what, **metadata)
        if self._operators > OPERATORS_MAX:
            self._where.fail(
                f"The expression contains too many operators; operator count: {self._operators}", limit=OPERATORS_MAX
            )

    def fail(self) -> NoReturn:
        """Raises the ValidationError about the token that comes next."""
        begin = max(0, self._position - 1)
        near = " ".join(token for token in self._tokens[begin : self._position + _CONTEXT_TOKENS] if token != END)
        self._where.fail(f'Syntax error; token: "{self.upcoming[:100]}", near: "{near[:200]}"')

    def _is_any_keyword(self) -> bool:
        return self.upcoming.upper() in _KEYWORDS

    def _name(self) -> str:
        name = self.upcoming
        if name[0] == "#" and len(name) > 1:
            self._position += 1
            return name
        if not (name.isascii() and name[0].isalpha()):
            self.fail()
        if name.upper() in RESERVED_WORDS:
            if self._is_any_keyword():
                self.fail()
            self.fault(RESERVED_RANK, f"Attribute name is a reserved keyword; reserved keyword: {name}")
        self._position += 1
        return name

    def _index(self) -> int:
        digits = self.upcoming
        if not (digits.isascii() and digits.isdecimal()):
            self.fail()
        index = int(digits)
        if index > LIST_INDEX_MAX:
            self._where.fail(
                f"List index is not within the allowable range; index: [{digits[:40]}]", limit=LIST_INDEX_MAX
            )
        self._position += 1
        return index


PARENTHESES_RANK: Final = 0
FUNCTION_RANK: Final = 1
MISUSE_RANK: Final = 2
RESERVED_RANK: Final = 3
SECTION_RANK: Final = 4
NESTING_RANK: Final = 5
