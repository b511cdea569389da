"""PartiQL statements as DynamoDB has them: text to a frozen tree. Knows no tables and no values of parameters.

Source: Amazon DynamoDB Developer Guide, "PartiQL - a SQL-compatible query language for Amazon DynamoDB".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, TypeAlias

from broker.model.errors import ValidationError

STATEMENT_CHARACTERS_MAX: Final = 8192
# Of parentheses, functions, NOT, lists, maps and sets; so that a reader of the tree cannot run out of stack.
DEPTH_MAX: Final = 100
# Enough for the greatest list index; the expression that a statement becomes refuses a greater one.
_INDEX_DIGITS_MAX: Final = 10
_END: Final = ""
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<quoted>"(?:[^"]|"")*")|(?P<string>'(?:[^']|'')*')"""
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<sign><<|>>|<>|!=|<=|>=|[=<>().,\[\]{}:?*+-]))",
    re.ASCII,
)
_COMPARATORS: Final = frozenset(("=", "<>", "<", "<=", ">", ">="))
_RETURNING: Final = ("ALL", "MODIFIED")
_AGES: Final = ("OLD", "NEW")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A literal of one attribute type: S, N, BOOL or NULL."""

    kind: str
    value: str | bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """A `?`, by its number from 0."""

    number: int


@dataclass(frozen=True, slots=True)
class ListOf:
    """[a, b]."""

    elements: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class SetOf:
    """<<a, b>>."""

    elements: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    """{'name': a}."""

    entries: tuple[tuple[str, Operand], ...]


@dataclass(frozen=True, slots=True)
class Path:
    """Where in an item a value lies."""

    steps: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function in lower case; also the operators + and -, with two arguments."""

    name: str
    arguments: tuple[Operand, ...]


Operand: TypeAlias = Scalar | Parameter | ListOf | SetOf | MapOf | Path | Function


@dataclass(frozen=True, slots=True)
class Comparison:
    """left = right, and so on."""

    comparator: str
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class Between:
    """operand BETWEEN low AND high."""

    operand: Operand
    low: Operand
    high: Operand


@dataclass(frozen=True, slots=True)
class In:
    """operand IN [a, b]."""

    operand: Operand
    elements: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """operand IS MISSING, or IS NULL."""

    operand: Operand
    what: str


@dataclass(frozen=True, slots=True)
class Not:
    """NOT condition."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class And:
    """All conditions hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the conditions holds."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Comparison | Between | In | Is | Not | And | Or | Function


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT; no paths mean `*`. Of `order`, each path has whether it is descending."""

    table: str
    index_name: str | None
    paths: tuple[Path, ...]
    where: Condition | None
    order: tuple[tuple[Path, bool], ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """EXISTS(SELECT ...)."""

    select: Select


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT INTO table VALUE {...}."""

    table: str
    value: Operand


@dataclass(frozen=True, slots=True)
class Update:
    """UPDATE; `returning` is as ReturnValues has it."""

    table: str
    sets: tuple[tuple[Path, Operand], ...]
    removes: tuple[Path, ...]
    where: Condition
    returning: str | None


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE; `returning` is as ReturnValues has it."""

    table: str
    where: Condition
    returning: str | None


Statement: TypeAlias = Select | Exists | Insert | Update | Delete


class _Token(NamedTuple):
    kind: str
    text: str
    begin: int


def parse_statement(text: str) -> tuple[Statement, int]:
    """A statement, and how many parameters it has. Raises ValidationError."""
    if not 1 <= len(text) <= STATEMENT_CHARACTERS_MAX:
        raise ValidationError(
            f"A statement must have from 1 to {STATEMENT_CHARACTERS_MAX} characters",
            field="Statement",
            limit=STATEMENT_CHARACTERS_MAX,
        )
    parser = _Parser(text)
    return parser.statement(), parser.parameters


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        self._position = 0
        self._depth = 0
        self.parameters = 0
        place, end = 0, len(text.rstrip())
        while place < end:
            match = _TOKEN.match(text, place)
            if match is None:
                _fail(f"Unexpected text at character {place + 1}")
            kind = match.lastgroup or ""
            self._tokens.append(_Token(kind, match[kind], match.start(kind)))
            place = match.end()
        self._tokens.append(_Token("end", _END, end))

    def statement(self) -> Statement:
        statement: Statement
        if self._word("SELECT"):
            statement = self._select()
        elif self._word("INSERT"):
            self._need_word("INTO")
            table = self._name()
            self._need_word("VALUE")
            statement = Insert(table, self._operand())
        elif self._word("UPDATE"):
            statement = self._update()
        elif self._word("DELETE"):
            self._need_word("FROM")
            table = self._name()
            self._need_word("WHERE")
            statement = Delete(table, self._condition(), self._returning())
        else:
            self._need_word("EXISTS")
            self._need("(")
            self._need_word("SELECT")
            statement = Exists(self._select())
            self._need(")")
        if self._next.kind != "end":
            self._unexpected()
        return statement

    def _select(self) -> Select:
        paths: list[Path] = []
        if not self._sign("*"):
            paths.append(self._path())
            while self._sign(","):
                paths.append(self._path())
        self._need_word("FROM")
        table = self._name()
        index = self._name() if self._sign(".") else None
        where = self._condition() if self._word("WHERE") else None
        order: list[tuple[Path, bool]] = []
        if self._word("ORDER"):
            self._need_word("BY")
            order.append(self._ordered())
            while self._sign(","):
                order.append(self._ordered())
        return Select(table, index, tuple(paths), where, tuple(order))

    def _ordered(self) -> tuple[Path, bool]:
        path = self._path()
        is_descending = self._word("DESC")
        if not is_descending:
            self._word("ASC")
        return path, is_descending

    def _update(self) -> Update:
        table = self._name()
        sets: list[tuple[Path, Operand]] = []
        removes: list[Path] = []
        while True:
            if self._word("SET"):
                sets.append(self._assignment())
                while self._sign(","):
                    sets.append(self._assignment())
            elif self._word("REMOVE"):
                removes.append(self._path())
                while self._sign(","):
                    removes.append(self._path())
            else:
                break
        if not sets and not removes:
            self._unexpected()
        self._need_word("WHERE")
        return Update(table, tuple(sets), tuple(removes), self._condition(), self._returning())

    def _assignment(self) -> tuple[Path, Operand]:
        path = self._path()
        self._need("=")
        value = self._operand()
        while self._next.text in {"+", "-"}:
            value = Function(self._take().text, (value, self._operand()))
        return path, value

    def _returning(self) -> str | None:
        if not self._word("RETURNING"):
            return None
        what, age = self._one_of(_RETURNING), self._one_of(_AGES)
        self._need("*")
        return f"{'ALL' if what == 'ALL' else 'UPDATED'}_{age}"

    def _condition(self) -> Condition:
        self._enter()
        conditions = [self._conjunction()]
        while self._word("OR"):
            conditions.append(self._conjunction())
        self._depth -= 1
        return conditions[0] if len(conditions) == 1 else Or(tuple(conditions))

    def _conjunction(self) -> Condition:
        conditions = [self._negation()]
        while self._word("AND"):
            conditions.append(self._negation())
        return conditions[0] if len(conditions) == 1 else And(tuple(conditions))

    def _negation(self) -> Condition:
        if self._word("NOT"):
            self._enter()
            condition = Not(self._negation())
            self._depth -= 1
            return condition
        if self._sign("("):
            inner = self._condition()
            self._need(")")
            return inner
        return self._predicate()

    def _predicate(self) -> Condition:
        operand = self._operand()
        if self._next.text in _COMPARATORS:
            return Comparison(self._take().text, operand, self._operand())
        if self._word("BETWEEN"):
            low = self._operand()
            self._need_word("AND")
            return Between(operand, low, self._operand())
        if self._word("IS"):
            is_negated = self._word("NOT")
            test = Is(operand, self._one_of(("MISSING", "NULL")))
            return Not(test) if is_negated else test
        if self._word("IN"):
            begin = self._take().text
            if begin not in {"[", "("}:
                self._position -= 1
                self._unexpected()
            elements = self._operands("]" if begin == "[" else ")")
            if not elements:
                _fail("IN needs one value or more")
            return In(operand, elements)
        if not isinstance(operand, Function):
            self._unexpected()
        return operand

    def _operand(self) -> Operand:
        token = self._next
        if token.kind == "string":
            return Scalar("S", self._take().text[1:-1].replace("''", "'"))
        if token.kind == "number":
            return Scalar("N", self._take().text)
        if token.text in {"+", "-"} and self._tokens[self._position + 1].kind == "number":
            sign = self._take().text.removeprefix("+")
            return Scalar("N", sign + self._take().text)
        if self._sign("?"):
            self.parameters += 1
            return Parameter(self.parameters - 1)
        if self._sign("["):
            return ListOf(self._operands("]"))
        if self._sign("<<"):
            return SetOf(self._operands(">>"))
        if self._sign("{"):
            return self._map()
        return self._named_operand()

    def _named_operand(self) -> Operand:
        for word, literal in (
            ("TRUE", Scalar("BOOL", value=True)),
            ("FALSE", Scalar("BOOL", value=False)),
            ("NULL", Scalar("NULL", value=True)),
        ):
            if self._word(word):
                return literal
        if self._next.kind == "name" and self._tokens[self._position + 1].text == "(":
            name = self._take().text.lower()
            self._need("(")
            return Function(name, self._operands(")"))
        return self._path()

    def _operands(self, end: str) -> tuple[Operand, ...]:
        self._enter()
        operands: list[Operand] = []
        if not self._sign(end):
            operands.append(self._operand())
            while self._sign(","):
                operands.append(self._operand())
            self._need(end)
        self._depth -= 1
        return tuple(operands)

    def _map(self) -> MapOf:
        self._enter()
        entries: list[tuple[str, Operand]] = []
        if not self._sign("}"):
            entries.append(self._entry())
            while self._sign(","):
                entries.append(self._entry())
            self._need("}")
        self._depth -= 1
        if len({name for name, _ in entries}) < len(entries):
            _fail("A map has the same name twice")
        return MapOf(tuple(entries))

    def _entry(self) -> tuple[str, Operand]:
        if self._next.kind != "string":
            self._unexpected()
        name = self._take().text[1:-1].replace("''", "'")
        self._need(":")
        return name, self._operand()

    def _path(self) -> Path:
        steps: list[str | int] = [self._name()]
        while True:
            if self._sign("."):
                steps.append(self._name())
            elif self._sign("["):
                digits = self._next.text
                if not digits.isdecimal() or len(digits) > _INDEX_DIGITS_MAX:
                    self._unexpected()
                steps.append(int(self._take().text))
                self._need("]")
            else:
                return Path(tuple(steps))

    def _name(self) -> str:
        if self._next.kind == "quoted" and len(self._next.text) > len('""'):
            return self._take().text[1:-1].replace('""', '"')
        if self._next.kind != "name":
            self._unexpected()
        return self._take().text

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            _fail(f"The statement nests deeper than {DEPTH_MAX} levels")

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        self._position += 1
        return self._tokens[self._position - 1]

    def _sign(self, sign: str) -> bool:
        if self._next.kind != "sign" or self._next.text != sign:
            return False
        self._position += 1
        return True

    def _word(self, word: str) -> bool:
        if self._next.kind != "name" or self._next.text.upper() != word:
            return False
        self._position += 1
        return True

    def _need(self, sign: str) -> None:
        if not self._sign(sign):
            self._unexpected()

    def _need_word(self, word: str) -> None:
        if not self._word(word):
            self._unexpected()

    def _one_of(self, words: tuple[str, ...]) -> str:
        for word in words:
            if self._word(word):
                return word
        return self._unexpected()

    def _unexpected(self) -> NoReturn:
        token = self._next
        found = f'token "{token.text[:100]}"' if token.text else "end"
        _fail(f"Unexpected {found} at character {token.begin + 1}")


def _fail(what: str) -> NoReturn:
    raise ValidationError(f"Statement wasn't well formed, can't be processed: {what}", field="Statement")
