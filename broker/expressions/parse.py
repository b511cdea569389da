"""Expression text to a checked tree, with placeholders resolved.

The grammar of this version: conditions are attribute_exists(name) and attribute_not_exists(name) joined by AND; updates
are SET name = :value and REMOVE name, of top-level attributes. Anything else is refused by name, never ignored.
Source: Developer Guide, "Using expressions in DynamoDB"; error texts follow the service in substance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from broker.expressions.condition import AttributeExists, Condition
from broker.expressions.reserved import RESERVED_WORDS
from broker.expressions.update import Update
from broker.model.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.model.values import Value

Resolved = TypeVar("Resolved")

EXPRESSION_BYTES_MAX: Final = 4096

_TOKEN: Final = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)|(#[A-Za-z0-9_]+)|(:[A-Za-z0-9_]+)|([^\sA-Za-z0-9_]|\d+))")
_FUNCTIONS: Final = {"attribute_exists": True, "attribute_not_exists": False}


@dataclass(slots=True, kw_only=True)
class Placeholders:
    """What #names and :values stand for, and which of them the request's expressions have used."""

    names: Mapping[str, str]
    values: Mapping[str, Value]
    used: set[str] = field(default_factory=set)

    def check_all_used(self) -> None:
        """Raises ValidationError if a placeholder is given that no expression uses."""
        for kind, given in (("Names", self.names), ("Values", self.values)):
            unused = sorted(set(given) - self.used)
            if unused:
                raise ValidationError(
                    f"Value provided in ExpressionAttribute{kind} unused in expressions: keys: {{{', '.join(unused)}}}",
                    field=f"expression_attribute_{kind.lower()}",
                )


def parse_condition(text: str, placeholders: Placeholders) -> Condition:
    """Reads a condition expression. Raises ValidationError that names the place."""
    parser = _Parser(text, "ConditionExpression", placeholders)
    terms = [_condition_term(parser)]
    while parser.keyword("AND"):
        terms.append(_condition_term(parser))
    parser.expect_end()
    return Condition(terms=tuple(terms))


def parse_update(text: str, placeholders: Placeholders) -> Update:
    """Reads an update expression. Raises ValidationError that names the place."""
    parser = _Parser(text, "UpdateExpression", placeholders)
    sets: dict[str, Value] = {}
    removes: set[str] = set()
    sections: set[str] = set()
    while not parser.at_end():
        section = parser.section(("SET", "REMOVE"), sections)
        while True:
            name = parser.attribute_name()
            if name in sets or name in removes:
                parser.fail(f"Two document paths overlap with each other; must remove or rewrite one of them: [{name}]")
            if section == "SET":
                parser.expect("=")
                sets[name] = parser.value()
            else:
                removes.add(name)
            if not parser.accept(","):
                break
    return Update(sets=sets, removes=frozenset(removes))


def _condition_term(parser: _Parser) -> AttributeExists:
    function = parser.word()
    if function not in _FUNCTIONS:
        parser.fail(f"Invalid function name; function: {function}; this version has: {', '.join(sorted(_FUNCTIONS))}")
    parser.expect("(")
    name = parser.attribute_name()
    parser.expect(")")
    return AttributeExists(name=name, exists=_FUNCTIONS[function])


class _Parser:
    """Tokens of one expression, read from left to right."""

    def __init__(self, text: str, kind: str, placeholders: Placeholders) -> None:
        self._kind = kind
        self._placeholders = placeholders
        if len(text.encode()) > EXPRESSION_BYTES_MAX:
            self.fail(
                f"Expression size has exceeded the maximum allowed size; limit: {EXPRESSION_BYTES_MAX} bytes",
                limit=EXPRESSION_BYTES_MAX,
            )
        self._tokens: list[str] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match is not None, "every character begins a token"
            self._tokens.append(match[0].strip())
            position = match.end()
        if not self._tokens:
            self.fail("The expression can not be empty;")
        self._tokens.reverse()

    def fail(self, what: str, **metadata: object) -> NoReturn:
        """Raises the error."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", self._kind).lower()
        raise ValidationError(f"Invalid {self._kind}: {what}", field=name, **metadata)

    def at_end(self) -> bool:
        """Whether all tokens are read."""
        return not self._tokens

    def expect_end(self) -> None:
        """Refuses anything that follows."""
        if self._tokens:
            self.fail(f'Syntax error; token: "{self._tokens[-1]}"')

    def accept(self, token: str) -> bool:
        """Takes a token if it comes next."""
        if self._tokens and self._tokens[-1] == token:
            self._tokens.pop()
            return True
        return False

    def expect(self, token: str) -> None:
        """Takes a token that must come next."""
        if not self.accept(token):
            self.fail(f'Syntax error; token: "{self._next()}", expected: "{token}"')

    def keyword(self, word: str) -> bool:
        """Takes a keyword, in any case, if it comes next."""
        if self._tokens and self._tokens[-1].upper() == word:
            self._tokens.pop()
            return True
        return False

    def section(self, words: tuple[str, ...], seen: set[str]) -> str:
        """Takes the keyword that begins a section; each may occur once."""
        for word in words:
            if self.keyword(word):
                if word in seen:
                    self.fail(f'The "{word}" section can only be used once in an update expression;')
                seen.add(word)
                return word
        return self.fail(f'Syntax error; token: "{self._next()}"; this version has: {", ".join(words)}')

    def word(self) -> str:
        """Takes a name without placeholder."""
        token = self._next()
        if not token.isascii() or not (token[0].isalpha() or token[0] == "_"):
            self.fail(f'Syntax error; token: "{token}"')
        return self._tokens.pop()

    def attribute_name(self) -> str:
        """Takes a top-level attribute: a name or a #placeholder."""
        token = self._next()
        if token[0] == "#":
            self._tokens.pop()
            name = self._resolve(token, self._placeholders.names, "name")
        else:
            name = self.word()
            if name.upper() in RESERVED_WORDS:
                self.fail(f"Attribute name is a reserved keyword; reserved keyword: {name}")
        if self._tokens and self._tokens[-1] in (".", "["):
            self.fail(f"Document paths are not in this version; path begins with: {name}")
        return name

    def value(self) -> Value:
        """Takes a :placeholder."""
        token = self._next()
        if token[0] != ":":
            self.fail(f'Syntax error; token: "{token}"; this version has: name = :value')
        self._tokens.pop()
        value = self._resolve(token, self._placeholders.values, "value")
        if self._tokens and self._tokens[-1] in ("+", "-"):
            self.fail("Arithmetic is not in this version")
        return value

    def _resolve(self, token: str, given: Mapping[str, Resolved], what: str) -> Resolved:
        if token not in given:
            self.fail(
                f"An expression attribute {what} used in the document path is not defined; attribute {what}: {token}"
            )
        self._placeholders.used.add(token)
        return given[token]

    def _next(self) -> str:
        return self._tokens[-1] if self._tokens else "<EOF>"
