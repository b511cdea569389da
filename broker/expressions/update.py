"""Updates: parsed once by text, bound to the placeholders of a request, then applied to an item.

All operands are computed from the item as it was, before anything of it changes. Then come assignments, ADD and DELETE,
and last all that goes (REMOVE, and sets that DELETE leaves empty), from the end of each list to its beginning, so that
indexes mean the elements of the item as it was.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias

from broker.expressions.parser import (
    FUNCTION_RANK,
    MISUSE_RANK,
    SECTION_RANK,
    TREES_KEPT_MAX,
    Parser,
    PathRef,
    ValueRef,
    unwrapped,
)
from broker.expressions.paths import check_apart, find, getter, part, pick, tree_of
from broker.expressions.placeholders import Where
from broker.model import numbers
from broker.model.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from broker.expressions.paths import Path
    from broker.expressions.placeholders import Placeholders
    from broker.model.values import Attributes, Value

    Get: TypeAlias = Callable[[Attributes], Value]

_WHERE: Final = Where("UpdateExpression")
_FIELD: Final = "update_expression"
_SECTIONS: Final = ("SET", "REMOVE", "ADD", "DELETE")
# Of an item that is missing they take nothing away, and do not make it.
_TAKING_AWAY: Final = ("REMOVE", "DELETE")
_SETS: Final = ("SS", "NS", "BS")
# The texts of an update that does not fit the item it is applied to.
INCORRECT_TYPE: Final = "An operand in the update expression has an incorrect data type"
INVALID_PATH: Final = "The document path provided in the update expression is invalid for update"
# All of 1E-130 to 9.99E+125, added to any other of them, exactly; what is too long for a number is refused then.
_EXACT: Final = Context(prec=300, Emax=MAX_EMAX, Emin=MIN_EMIN)
_TYPE_WORDS: Final = {
    "S": "STRING",
    "N": "NUMBER",
    "B": "BINARY",
    "BOOL": "BOOLEAN",
    "NULL": "NULL",
    "SS": "STRING_SET",
    "NS": "NUMBER_SET",
    "BS": "BINARY_SET",
    "L": "LIST",
    "M": "MAP",
}


class Call(NamedTuple):
    """A function or an operator of SET."""

    name: str
    operands: tuple[object, ...]


class Action(NamedTuple):
    """One change of a section."""

    section: str
    path: PathRef
    # What SET assigns, ADD adds and DELETE deletes.
    operand: object = None


class _Change(NamedTuple):
    """An action with its placeholders resolved."""

    section: str
    path: Path
    get: Get | None


class Update:
    """Changes of an item, ready to be applied."""

    __slots__ = ("_changes", "_is_flat", "_paths", "creates", "names", "touched")

    def __init__(self, changes: list[_Change], names: Iterable[str] = ()) -> None:
        # Elements beyond the end of a list are appended in the order of their indexes.
        self._changes = changes if len(changes) == 1 else sorted(changes, key=lambda change: _Steps(change.path))
        self._paths = [change.path for change in changes]
        self._is_flat = all(len(path) == 1 for path in self._paths)
        # Whether it makes an item of one that is missing: one that only takes away does not.
        self.creates = not changes or any(change.section not in _TAKING_AWAY for change in changes)
        # The attributes that it changes, or parts of; and all that it mentions.
        self.touched = frozenset([path[0] for path in self._paths])
        self.names = self.touched.union(names)

    def apply(self, attributes: Attributes, *, is_new: bool = False) -> Attributes:
        """The item after the update; the one given stays as it is. Attributes that it does not mention may be left out.

        `is_new` says that there is none: then nothing can be removed from parts of it, and that is no error. Raises
        ValidationError if the update does not fit the item.
        """
        operands = [None if change.get is None else change.get(attributes) for change in self._changes]
        after = dict(attributes)
        if not self._is_flat:
            for path in self._paths:
                # What is changed inside is copied first.
                if len(path) > 1 and path[0] in after and after[path[0]] is attributes[path[0]]:
                    after[path[0]] = _copied(after[path[0]])
        going: list[Path] = []
        for change, operand in zip(self._changes, operands, strict=True):
            section, path = change.section, change.path
            if is_new and section in _TAKING_AWAY:
                continue
            if len(path) > 1:
                # The path must fit also where its section finds nothing to do.
                _container(after, path)
            before = find(attributes, path)
            value = _changed(section, before, operand)
            if value is not None:
                _assign(after, path, value)
            elif before is not None:
                going.append(path)
        if len(going) > 1:
            going.sort(key=lambda path: _Steps(path, is_descending=True))
        for path in going:
            _remove(after, path)
        return after

    def check_keeps(self, key_names: Collection[str]) -> None:
        """Raises ValidationError if it would change a key attribute of the item's table."""
        for path in self._paths:
            if path[0] in key_names:
                raise ValidationError(
                    f"One or more parameter values were invalid: Cannot update attribute {path[0]}. This attribute is "
                    "part of the key",
                    field=_FIELD,
                    attribute=path[0],
                )

    def updated(self, attributes: Attributes) -> Attributes:
        """Of an item before or after the update, the parts that the update names."""
        return pick(attributes, tree_of(self._paths))


def parse_update(text: str, placeholders: Placeholders, key_names: Collection[str] = ()) -> Update:
    """Reads an update of an item with these key attributes. Raises ValidationError."""
    actions = _actions(text)
    binding = _Binding(placeholders)
    paths = [action.path.resolved(placeholders, _WHERE) for action in actions]
    changes = [
        _Change(action.section, path, binding.change(action)) for action, path in zip(actions, paths, strict=True)
    ]
    check_apart(paths, _WHERE)
    update = Update(changes, binding.names)
    update.check_keeps(key_names)
    return update


@lru_cache(TREES_KEPT_MAX)
def _actions(text: str) -> tuple[Action, ...]:
    parser = Parser(text, _WHERE)
    actions: list[Action] = []
    seen: set[str] = set()
    while section := next((word for word in _SECTIONS if parser.accept_keyword(word)), None):
        if section in seen:
            parser.fault(SECTION_RANK, f'The "{section}" section can only be used once in an update expression;')
        seen.add(section)
        actions.append(_action(parser, section))
        while parser.accept(","):
            actions.append(_action(parser, section))
    if not seen:
        parser.fail()
    parser.finish()
    return tuple(actions)


def _action(parser: Parser, section: str) -> Action:
    path = parser.path()
    if section == "SET":
        parser.expect("=")
        parser.operator()
        return Action(section, path, _assigned(parser))
    return Action(section, path, None if section == "REMOVE" else parser.value())


def _assigned(parser: Parser) -> object:
    """Take the right side of SET: one operand, or two with + or - between them; all of it may be in parentheses."""
    return unwrapped(_sum(parser, _operand(parser, is_outermost=True)))


def _sum(parser: Parser, first: object) -> object:
    for sign in ("+", "-"):
        if parser.accept(sign):
            parser.operator()
            return Call(sign, (_nested(parser, first), _nested(parser, _operand(parser))))
    return first


def _operand(parser: Parser, *, is_outermost: bool = False) -> object:
    if parser.accept("("):
        parser.enter()
        inner = _operand(parser, is_outermost=is_outermost)
        if is_outermost:
            inner = _sum(parser, inner)
        parser.expect(")")
        parser.leave()
        return parser.wrapped(inner)
    name = parser.function()
    if name is not None:
        parser.operator()
        if name in _CONDITION_FUNCTIONS:
            _note_misuse(parser, name)
        elif name not in (_IF_NOT_EXISTS, _LIST_APPEND):
            parser.fault(FUNCTION_RANK, f"Invalid function name; function: {name}")
        argument = _unwrapped_operand if name == _IF_NOT_EXISTS else _nested_operand
        return Call(name, tuple(parser.arguments(lambda: argument(parser))))
    return parser.value() if parser.upcoming[0] == ":" else parser.path()


def _unwrapped_operand(parser: Parser) -> object:
    return unwrapped(_operand(parser))


def _nested_operand(parser: Parser) -> object:
    return _nested(parser, _operand(parser))


def _nested(parser: Parser, node: object) -> object:
    """Return an operand of list_append, + or - without its parentheses; list_append must not be one."""
    node = unwrapped(node)
    if isinstance(node, Call) and node.name == _LIST_APPEND:
        _note_misuse(parser, node.name)
    return node


def _note_misuse(parser: Parser, function: str) -> None:
    parser.fault(MISUSE_RANK, f"The function is not allowed to be used this way in an expression; function: {function}")


_IF_NOT_EXISTS: Final = "if_not_exists"
_LIST_APPEND: Final = "list_append"


_CONDITION_FUNCTIONS: Final = frozenset(
    ("attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains", "size")
)


class _Binding:
    """Makes functions of operands for one request."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        # The attributes that operands are read from.
        self.names: set[str] = set()

    def change(self, action: Action) -> Get | None:
        """What an action assigns, adds or deletes; None if it removes."""
        if action.operand is None:
            return None
        if action.section == "SET":
            return self._get(action.operand)
        assert isinstance(action.operand, ValueRef)
        value = self._placeholders.value(action.operand.reference, _WHERE)
        if value[0] not in (_SETS if action.section == "DELETE" else (*_SETS, "N")):
            _WHERE.fail(
                f"Incorrect operand type for operator or function; operator: {action.section}, "
                f"operand type: {_TYPE_WORDS[value[0]]}"
            )
        return lambda _: value

    def _get(self, node: object) -> Get:
        if isinstance(node, ValueRef):
            value = self._placeholders.value(node.reference, _WHERE)
            return lambda _: value
        if isinstance(node, PathRef):
            found = self._getter(node)
            return lambda item: _existing(found(item))
        assert isinstance(node, Call)
        if len(node.operands) != 2:  # noqa: PLR2004 (all have two)
            _WHERE.fail(
                f"Incorrect number of operands for operator or function; operator or function: {node.name}, "
                f"number of operands: {len(node.operands)}",
                limit=2,
            )
        if node.name == _IF_NOT_EXISTS:
            return self._if_not_exists(*node.operands)
        needed = "L" if node.name == _LIST_APPEND else "N"
        for operand in node.operands:
            self._check_type(node.name, operand, needed)
        one, two = (self._get(operand) for operand in node.operands)
        match node.name:
            case "list_append":
                return lambda item: ("L", [*_typed(one(item), "L"), *_typed(two(item), "L")])
            case "+":
                return lambda item: _sum_of(_typed(one(item), "N"), _typed(two(item), "N"))
            case _:
                return lambda item: _difference_of(_typed(one(item), "N"), _typed(two(item), "N"))

    def _if_not_exists(self, path: object, otherwise: object) -> Get:
        if not isinstance(path, PathRef):
            _WHERE.fail("Operator or function requires a document path; operator or function: " + _IF_NOT_EXISTS)
        found = self._getter(path)
        default = self._get(otherwise)
        return lambda item: default(item) if (value := found(item)) is None else value

    def _getter(self, reference: PathRef) -> Callable[[Attributes], Value | None]:
        path = reference.resolved(self._placeholders, _WHERE)
        self.names.add(path[0])
        return getter(path)

    def _check_type(self, name: str, operand: object, needed: str) -> None:
        if isinstance(operand, ValueRef):
            kind = self._placeholders.value(operand.reference, _WHERE)[0]
            if kind != needed:
                _WHERE.fail(
                    f"Incorrect operand type for operator or function; operator or function: {name}, "
                    f"operand type: {kind}"
                )


class _Steps:
    """A path in the order of its steps; paths that are compared beyond a step have it in common."""

    __slots__ = ("_is_descending", "_path")

    def __init__(self, path: Path, *, is_descending: bool = False) -> None:
        self._path = path
        self._is_descending = is_descending

    def __lt__(self, other: _Steps) -> bool:
        one, two = (other._path, self._path) if self._is_descending else (self._path, other._path)
        for mine, its in zip(one, two, strict=False):
            if mine != its:
                # Two kinds of steps in one place are a conflict, which is told later.
                return mine < its if type(mine) is type(its) else isinstance(mine, int)
        return len(one) < len(two)


def _assign(after: Attributes, path: Path, value: Value) -> None:
    """Puts a value where a path leads, whose last step may be new."""
    last = path[-1]
    if len(path) == 1:
        after[last] = value
        return
    content = _container(after, path)
    if isinstance(last, int) and last >= len(content):
        content.append(value)
    else:
        content[last] = value


def _remove(after: Attributes, path: Path) -> None:
    """Remove the value at a path, if there is one."""
    last = path[-1]
    if len(path) == 1:
        after.pop(last, None)
        return
    content = _container(after, path)
    if not isinstance(last, int):
        content.pop(last, None)
    elif last < len(content):
        del content[last]


def _changed(section: str, before: Value | None, operand: Value | None) -> Value | None:
    """Return what a section makes of the value at its path; None if no value is to be there."""
    if operand is None:
        return None
    if section == "SET":
        return operand
    if section == "ADD":
        return _added(before, operand)
    return None if before is None else _without(before, operand)


def _without(before: Value, elements: Value) -> Value | None:
    """Return a set without some elements; None if none is left."""
    if before[0] != elements[0]:
        _fail_type()
    left = tuple(element for element in before[1] if element not in elements[1])
    return (before[0], left) if left else None


def _added(before: Value | None, more: Value) -> Value:
    """A number or set with another added."""
    if before is None:
        return more
    kind, content = before
    if kind != more[0]:
        _fail_type()
    return _sum_of(content, more[1]) if kind == "N" else (kind, tuple(sorted({*content, *more[1]})))


def _container(after: Attributes, path: Path) -> Any:
    """Return the content of the list or map that the last step of a path leads into.

    This alone decides whether a path of several steps fits an item, for each section. Raises ValidationError if it does
    not: nothing is there, or a value of a type that has no such part.
    """
    value = after.get(path[0])
    for step in path[1:-1]:
        value = None if value is None else part(value, step)
    if value is None or value[0] != ("L" if isinstance(path[-1], int) else "M"):
        _fail_path()
    return value[1]


def _copied(value: Value) -> Value:
    """A value whose lists and maps may be changed."""
    kind, content = value
    if kind == "L":
        return kind, [_copied(element) for element in content]
    if kind == "M":
        return kind, {name: _copied(entry) for name, entry in content.items()}
    return value


def _sum_of(one: str, two: str) -> Value:
    return "N", numbers.normalize(str(_EXACT.add(Decimal(one), Decimal(two))))


def _difference_of(one: str, two: str) -> Value:
    return "N", numbers.normalize(str(_EXACT.subtract(Decimal(one), Decimal(two))))


def _existing(value: Value | None) -> Value:
    if value is None:
        raise ValidationError(
            "The provided expression refers to an attribute that does not exist in the item", field=_FIELD
        )
    return value


def _typed(value: Value, kind: str) -> Any:
    """The content of a value that must be of a type."""
    if value[0] != kind:
        _fail_type()
    return value[1]


def _fail_type() -> NoReturn:
    raise ValidationError(INCORRECT_TYPE, field=_FIELD)


def _fail_path() -> NoReturn:
    raise ValidationError(INVALID_PATH, field=_FIELD)


# Of a request without an expression: a missing item gets its key alone.
NO_UPDATE: Final = Update([])
