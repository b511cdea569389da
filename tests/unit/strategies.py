"""Values for property tests, and the many ways to spell one number."""

from __future__ import annotations

from decimal import Context, Decimal

from hypothesis import strategies as st

from tests.values import Attributes, Value

EXACT = Context(prec=400)


@st.composite
def _decimals(draw: st.DrawFn) -> Decimal:
    digits = draw(st.integers(0, 10**38 - 1) | st.integers(0, 99))
    if digits == 0:
        return Decimal(0)
    # The exponent of the first digit, at its limits as often as between them.
    first = draw(st.sampled_from((-130, -129, -1, 0, 1, 124, 125)) | st.integers(-130, 125))
    sign = draw(st.sampled_from((1, -1)))
    return EXACT.scaleb(Decimal(sign * digits), first - len(str(digits)) + 1)


# Every number that DynamoDB takes: up to 38 digits, 1E-130 to 9.99E+125, negative ones, and zero.
NUMBERS = _decimals()


@st.composite
def spellings(draw: st.DrawFn, number: Decimal) -> str:
    """One of the texts that mean a number."""
    shift = draw(st.integers(-140, 140))
    text = draw(st.sampled_from((f"{number:f}", f"{number:E}", f"{EXACT.scaleb(number, -shift):f}e{shift}")))
    sign, text = ("-", text[1:]) if text.startswith("-") else (draw(st.sampled_from(("", "+"))), text)
    mantissa, exponent_mark, exponent = text.replace("e", "E").partition("E")
    if "." in mantissa:
        mantissa += "0" * draw(st.integers(0, 3))
    mantissa = "0" * draw(st.integers(0, 3)) + mantissa
    return sign + mantissa + exponent_mark.replace("E", draw(st.sampled_from("eE"))) + exponent


_NAMES = st.text(min_size=1, max_size=4)
_SCALARS: st.SearchStrategy[Value] = st.one_of(
    st.tuples(st.just("S"), st.text(max_size=8)),
    st.tuples(st.just("N"), NUMBERS),
    st.tuples(st.just("B"), st.binary(max_size=8)),
    st.tuples(st.just("BOOL"), st.booleans()),
    st.just(("NULL", True)),
    st.tuples(st.just("SS"), st.frozensets(st.text(max_size=3), min_size=1, max_size=4)),
    st.tuples(st.just("NS"), st.frozensets(NUMBERS, min_size=1, max_size=4)),
    st.tuples(st.just("BS"), st.frozensets(st.binary(max_size=3), min_size=1, max_size=4)),
)


def _containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    lists = st.tuples(st.just("L"), st.lists(inner, max_size=3).map(tuple))
    maps = st.dictionaries(_NAMES, inner, max_size=3).map(lambda members: frozenset(members.items()))
    return lists | st.tuples(st.just("M"), maps)


VALUES: st.SearchStrategy[Value] = st.recursive(_SCALARS, _containers, max_leaves=8)
ATTRIBUTES: st.SearchStrategy[Attributes] = st.dictionaries(_NAMES, VALUES, max_size=5)
