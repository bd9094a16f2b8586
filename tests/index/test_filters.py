"""Filters select the same documents as a check of each document's metadata. Invalid filters are refused."""

from __future__ import annotations

import datetime as dt
import json
import operator
import tracemalloc
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.errors import CorruptIndex, DataError
from lsr.index.segment import columns as columns_module
from lsr.index.segment.columns import COLUMNS_FILE, MOST_COLUMNS, Columns, ColumnsWriter
from lsr.index.segment.parse_filters import parse_where, parse_where_text
from lsr.io.metadata import parse_time

DOCS = [
    {"year": 2019, "lang": "en", "tags": ["a", "b"], "draft": True, "author": {"name": "Ada"}},
    {"year": 2020, "lang": "de", "tags": ["b"], "draft": False},
    {"year": 2021.5, "lang": "en", "tags": []},
    None,
    {"lang": "fr", "scores": [1, 2.5], "author": {"name": "Bob"}},
]


def write(folder, docs, per_batch=2):
    writer = ColumnsWriter()
    texts = [None if doc is None else json.dumps(doc) for doc in docs]
    for start in range(0, len(texts), per_batch):
        writer.write(pa.array(texts[start : start + per_batch], pa.string()))
    return Columns(folder / COLUMNS_FILE, len(docs)) if writer.close(folder) else None


@pytest.fixture
def columns(tmp_path):
    return write(tmp_path, DOCS)


def found(columns, where):
    parsed = parse_where(where)
    parsed.require_known([columns])
    return np.flatnonzero(parsed.mask(columns, len(DOCS))).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"year": 2020}, [1]),
        ({"year": {">=": 2020}}, [1, 2]),
        ({"year": {">": 2019, "<": 2021}}, [1]),
        ({"year": {"!=": 2020}}, [0, 2]),
        ({"year": {"in": [2019, 2021.5]}}, [0, 2]),
        ({"lang": "en"}, [0, 2]),
        ({"lang": ["de", "fr", "xx"]}, [1, 4]),
        ({"lang": {"not in": ["de", "fr"]}}, [0, 2]),
        ({"lang": {">": "de"}}, [0, 2, 4]),
        ({"lang": "xx"}, []),
        ({"tags": "b"}, [0, 1]),
        ({"tags": ["a", "c"]}, [0]),
        ({"tags": {"!=": "a"}}, [1, 2]),
        ({"tags": {"exists": True}}, [0, 1, 2]),
        ({"scores": {">": 2}}, [4]),
        ({"draft": True}, [0]),
        ({"draft": {"!=": True}}, [1]),
        ({"author.name": "Ada"}, [0]),
        ({"year": {"exists": False}}, [3, 4]),
        ({"not": {"year": 2020}}, [0, 2, 3, 4]),
        ({"or": [{"year": 2020}, {"lang": "fr"}]}, [1, 4]),
        ({"or": []}, []),
        ({"and": [{"lang": "en"}, {"draft": True}]}, [0]),
        ({"lang": "en", "year": {"<": 2020}}, [0]),
        ({"lang": {"prefix": "e"}}, [0, 2]),
        ({"lang": {"prefix": ""}}, [0, 1, 2, 4]),
        ({"author.name": {"contains": "d"}}, [0]),
        ({"author.name": {"contains": "D"}}, []),
        ({"tags": {"prefix": "a"}}, [0]),
        ({"tags": {"contains": "b"}}, [0, 1]),
        ({"not": {"lang": {"contains": "r"}}}, [0, 1, 2, 3]),
    ],
)
def test_filters_select_the_expected_documents(columns, where, expected):
    assert found(columns, where) == expected


def test_columns_have_the_kind_of_their_values(columns):
    assert columns.kinds == {
        "year": "number",
        "lang": "text",
        "tags": "list of text",
        "draft": "truth",
        "author.name": "text",
        "scores": "list of number",
    }


VALUES = {
    "n": st.one_of(st.integers(-3, 3), st.floats(-3, 3)),
    "t": st.sampled_from(["", "a", "b", "ä", "é"]),
    "b": st.booleans(),
    "l": st.lists(st.sampled_from("abc"), max_size=3),
}
PLAIN = {"n": VALUES["n"], "t": VALUES["t"], "b": VALUES["b"], "l": st.sampled_from("abc")}
OPERATORS = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@st.composite
def conditions(draw):
    name = draw(st.sampled_from(sorted(VALUES)))
    kind = draw(st.sampled_from(["==", "!=", "in", "not in", "exists", "<", "<=", ">", ">="]))
    if kind in ("<", "<=", ">", ">=") and name == "b":
        kind = "=="
    if kind == "exists":
        return {name: {kind: draw(st.booleans())}}
    return {name: {kind: draw(st.lists(PLAIN[name], max_size=3) if "in" in kind else PLAIN[name])}}


WHERE = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"or": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=5,
)


def meets(doc, where):
    """Whether a document meets a filter, by brute force."""
    results = []
    for key, condition in where.items():
        if key == "or":
            results.append(any(meets(doc, one) for one in condition))
        elif key == "and":
            results.append(all(meets(doc, one) for one in condition))
        elif key == "not":
            results.append(not meets(doc, condition))
        else:
            ((kind, value),) = condition.items()
            there = key in doc
            items = doc.get(key)
            items = items if isinstance(items, list) else [items]
            if kind == "exists":
                results.append(there == value)
            elif kind in ("!=", "not in"):
                results.append(there and not any(i in (value if kind == "not in" else [value]) for i in items))
            elif kind == "in":
                results.append(there and any(i in value for i in items))
            else:
                results.append(there and any(OPERATORS[kind](i, value) for i in items))
    return all(results)


@given(
    docs=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=12),
    where=WHERE,
    per_batch=st.integers(1, 5),
)
def test_filters_equal_brute_force(tmp_path_factory, docs, where, per_batch):
    columns = write(tmp_path_factory.mktemp("filters"), docs, per_batch)
    mask = parse_where(where).mask(columns, len(docs))
    assert mask.tolist() == [meets(doc, where) for doc in docs]


def test_documents_without_metadata_have_no_columns(tmp_path):
    assert write(tmp_path, [None, {}]) is None
    parsed = parse_where({"not": {"year": 2020}})
    assert parsed.mask(None, 2).tolist() == [True, True]
    with pytest.raises(DataError, match="no column 'year'; there are none at all"):
        parsed.require_known([])


def test_a_column_may_be_missing_in_some_segments(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = write(tmp_path / "one", [{"a": 1}]), write(tmp_path / "two", [{"b": "x"}])
    parsed = parse_where({"or": [{"a": 1}, {"b": "x"}]})
    parsed.require_known([one, two])
    assert parsed.mask(one, 1).tolist() == parsed.mask(two, 1).tolist() == [True]


def test_a_column_may_have_only_empty_lists_in_some_segments(tmp_path):
    first = write(tmp_path, [{"tags": []}, {}])
    (tmp_path / "b").mkdir()
    second = write(tmp_path / "b", [{"tags": ["x"]}, {"tags": []}])
    assert (first.kinds, second.kinds) == ({"tags": "empty list"}, {"tags": "list of text"})
    for where, expected in (
        ({"tags": "x"}, [[False, False], [True, False]]),
        ({"tags": {"!=": "x"}}, [[True, False], [False, True]]),
        ({"tags": {">": "a"}}, [[False, False], [True, False]]),
        ({"tags": {"exists": True}}, [[True, False], [True, True]]),
    ):
        parsed = parse_where(where)
        parsed.require_known([first, second])
        assert [parsed.mask(columns, 2).tolist() for columns in (first, second)] == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"yaer": 2020}, r"no column 'yaer'; there are author.name, draft, .*year"),
        ({"year": "2020"}, r"year is a number, it can't be compared with '2020'"),
        ({"year": True}, r"year is a number, it can't be compared with True"),
        ({"lang": 3}, r"lang is a text, it can't be compared with 3"),
        ({"tags": 3}, r"tags is a text, it can't be compared with 3"),
        ({"draft": {">": True}}, r"draft is true or false, which > can't compare"),
        ({"yaer": 1, "lang": 3}, r"'yaer'.*; lang is a text"),
        ({"year": {"=>": 1}}, r"year: unknown operator '=>'; there are =="),
        ({"year": {}, "n": {}}, r"year: no condition; there are ==.*; n: no condition"),
        ({"year": {"in": 1}}, r"year: in takes a list, got 1"),
        ({"year": {">": [1]}}, r"year: > takes one value"),
        ({"year": {"exists": 1}}, r"year: exists takes true or false"),
        (
            {"year": None},
            r"year: values are texts, numbers, times, true or false, got None; \{\"exists\": false\} finds",
        ),
        ({"or": {"year": 1}}, r"or takes a list"),
        ({"not": [1]}, r"a filter is a mapping"),
        ([1], r'a filter is a mapping of column to condition, as {"year": {">=": 2020}}, got \[1\]'),
        ({1: 1}, r"a column's name is a string, got 1"),
    ],
)
def test_invalid_filters_are_refused(columns, where, message):
    with pytest.raises(DataError, match=message):
        found(columns, where)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["year>=2020"], [1, 2]),
        (["year >= 2020", "lang=en"], [2]),
        (["lang=en,de"], [0, 1, 2]),
        (["lang!=en,de"], [4]),
        (["draft=true"], [0]),
        (['{"or": [{"year": 2019}, {"lang": "fr"}]}', "year<2020"], [0]),
        (["author.name=Ada"], [0]),
    ],
)
def test_conditions_of_a_command_line_are_parsed(columns, texts, expected):
    parsed = parse_where_text(texts)
    parsed.require_known([columns])
    assert np.flatnonzero(parsed.mask(columns, len(DOCS))).tolist() == expected


def test_texts_that_look_like_numbers_are_compared_as_texts(tmp_path):
    columns = write(tmp_path, [{"zip": "01234"}, {"zip": "12345"}])
    assert np.flatnonzero(parse_where_text(["zip=12345"]).mask(columns, 2)).tolist() == [1]


def test_invalid_conditions_of_a_command_line_are_refused(columns):
    assert parse_where_text([]) is None
    with pytest.raises(DataError, match=r"'year' is not a condition such as.*; \{1: not JSON"):
        parse_where_text(["year", "{1"])
    with pytest.raises(DataError, match="year is a number, it can't be compared with 'new'"):
        parse_where_text(["year>new"]).require_known([columns])


@pytest.mark.parametrize("value", ["\ud800", ["a", "\ud800"]])
def test_keys_with_unsupported_values_make_no_column(tmp_path, value):
    columns = write(tmp_path, [{"a": value, "b": 1}])
    assert list(columns.kinds) == ["b"]
    with pytest.raises(DataError, match="a can't be filtered by"):
        parse_where({"a": 1}).require_known([columns])


def test_keys_of_mixed_kinds_make_no_column(tmp_path):
    columns = write(tmp_path, [{"a": 1, "c": [1, "x"]}, {"a": 2}, {"a": "three", "b": 1}])
    assert columns.kinds == {"b": "number"}
    with pytest.raises(DataError, match=r"a can't be filtered by: its values are of different kinds: number, text"):
        parse_where({"a": 1}).require_known([columns])
    with pytest.raises(DataError, match="c can't be filtered by"):
        parse_where({"c": 1}).require_known([columns])


@pytest.mark.parametrize("per_batch", [1, 2])
@pytest.mark.parametrize(("value", "kind"), [(1, "number"), ("x", "text"), (True, "truth")])
def test_an_empty_list_and_plain_values_are_mixed_kinds(tmp_path, value, kind, per_batch):
    columns = write(tmp_path, [{"a": []}, {"a": value}], per_batch)
    assert columns.kinds == {}
    with pytest.raises(DataError, match=f"a can't be filtered by: .* kinds: empty list, {kind}"):
        parse_where({"a": value}).require_known([columns])


@pytest.mark.parametrize(
    ("values", "kinds"),
    [([1, "x"], "number, text"), (["x", ["x"]], "list of text, text"), ([[], 1], "empty list, number")],
)
@pytest.mark.parametrize("where", [{"a": 1}, {"a": "x"}, {"a": {"exists": True}}])
def test_keys_of_different_kinds_in_different_segments_make_no_column(tmp_path_factory, values, kinds, where):
    segments = [write(tmp_path_factory.mktemp("segment"), [{"a": value, "b": 1}]) for value in values]
    with pytest.raises(DataError, match=f"a can't be filtered by: its values are of different kinds: {kinds}"):
        parse_where(where).require_known(segments)
    parse_where({"b": 1}).require_known(segments)


def test_an_empty_list_is_compatible_with_any_list(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = write(tmp_path / "one", [{"a": []}, {"a": []}]), write(tmp_path / "two", [{"a": ["x"]}])
    assert one.kinds == {"a": "empty list"}
    parsed = parse_where({"a": "x"})
    for segments in ([one, two], [two, one], [one]):
        parsed.require_known(segments)
    assert parsed.mask(one, 2).tolist() == [False, False]
    assert parsed.mask(two, 1).tolist() == [True]
    assert parse_where({"a": {"exists": True}}).mask(one, 2).tolist() == [True, True]


def test_the_number_of_columns_is_limited(tmp_path):
    columns = write(tmp_path, [{f"k{i}": i for i in range(MOST_COLUMNS + 1)}])
    assert len(columns.kinds) == MOST_COLUMNS
    with pytest.raises(DataError, match=f"more than {MOST_COLUMNS} keys"):
        parse_where({f"k{MOST_COLUMNS}": 1}).require_known([columns])


def test_many_different_keys_take_little_memory(tmp_path):
    docs = [{f"k{20 * i + j}": 1 for j in range(20)} | {"n": i} for i in range(1024)]
    tracemalloc.start()
    try:
        columns = write(tmp_path, docs, per_batch=512)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000  # one list per key would take 84 MB for each batch
    finally:
        tracemalloc.stop()
    assert len(columns.kinds) == MOST_COLUMNS
    assert len(columns.mixed) == 2 * MOST_COLUMNS  # the record of keys without a column is also limited
    assert np.flatnonzero(parse_where({"n": {">": 1021}}).mask(columns, 1024)).tolist() == [1022, 1023]
    assert parse_where({"k7": 1}).mask(columns, 1024).sum() == 1
    with pytest.raises(DataError) as told:
        parse_where({"or": [{f"no{i}": 1} for i in range(900)]}).require_known([columns])
    assert len(str(told.value)) < 20_000
    assert str(told.value).endswith("; and more")


def test_a_key_of_mixed_kinds_stays_without_a_column(tmp_path):
    columns = write(tmp_path, [{"a": 1}, {"a": "x"}, {"a": 2}, {"b": 3}], per_batch=1)
    assert list(columns.kinds) == ["b"]
    assert "different kinds" in columns.mixed["a"]


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1), st.text(max_size=3), st.data())
def test_texts_compare_as_in_python(tmp_path_factory, texts, value, data):
    columns = write(tmp_path_factory.mktemp("texts"), [None if t is None else {"t": t, "l": [t, "x"]} for t in texts])
    if columns is None:
        return
    for name, compare in (("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge)):
        for other in (value, value + "\ud800"):
            expected = [t is not None and compare(t, other) for t in texts]
            assert parse_where({"t": {name: other}}).mask(columns, len(texts)).tolist() == expected
            expected = [t is not None and (compare(t, other) or compare("x", other)) for t in texts]
            assert parse_where({"l": {name: other}}).mask(columns, len(texts)).tolist() == expected
    some = data.draw(st.lists(st.text(max_size=3)))
    expected = [t is not None and t in some for t in texts]
    assert parse_where({"t": {"in": [*some, "\ud800"]}}).mask(columns, len(texts)).tolist() == expected


def test_a_thousand_conditions_read_a_column_once(tmp_path):
    columns = write(tmp_path, [{"t": f"value {i}"} for i in range(50)], per_batch=50)
    read = []
    batch = columns._batch

    class Counting:
        schema = batch.schema

        def column(self, number):
            read.append(number)
            return batch.column(number)

    columns._batch = Counting()
    assert parse_where({"or": [{"t": f"value {i}"} for i in range(999)]}).mask(columns, 50).all()
    assert read == [0]


def test_numbers_beyond_64_bits_compare_exactly(tmp_path):
    columns = write(tmp_path, [{"n": 2**70}, {"n": 1}, {"n": 2**63 - 1}], per_batch=1)
    assert np.flatnonzero(parse_where({"n": {">": 2**65}}).mask(columns, 3)).tolist() == [0]


def test_the_error_names_a_damaged_file(tmp_path):
    write(tmp_path, DOCS)
    with pytest.raises(CorruptIndex, match=r"columns.arrow: 5 documents, the segment has 6"):
        Columns(tmp_path / COLUMNS_FILE, 6)
    (tmp_path / COLUMNS_FILE).write_bytes(b"ARROW1")
    with pytest.raises(CorruptIndex, match=r"columns.arrow: damaged"):
        Columns(tmp_path / COLUMNS_FILE, 5)


def test_a_key_that_occurs_twice_in_a_document_makes_no_column(tmp_path):
    docs = [{"a.b": 1}, {"a.b": 2, "a": {"b": 3}}, {"a.b": 4}, {"a": {"c": 1}}]
    for per_batch in (1, 2, 4):
        columns = write(tmp_path, docs, per_batch)
        assert columns.kinds == {"a.c": "number"}
        with pytest.raises(DataError, match=r"a\.b can't be filtered by: a document has it twice"):
            found(columns, {"a.b": 3})
        assert parse_where({"a.c": 1}).mask(columns, len(docs)).tolist() == [False, False, False, True]


# --- dates and times -------------------------------------------------------------------------------------------------

TIMES = [
    {"at": "2020-05-17"},
    {"at": "2020-05-17T12:30:00"},
    {"at": "2020-05-17T14:30:00.5+02:00"},
    {"at": "some time", "n": 1},
    {"at": "1969-12-31 23:59:59.999999Z"},
]
NOON = dt.datetime(2020, 5, 17, 12, 30)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"<": "2020-05-17"}, [4]),
        ({"<=": "2020-05-17"}, [0, 4]),
        ({">": dt.date(2020, 5, 17)}, [1, 2]),
        ({">=": NOON}, [1, 2]),
        ({">": NOON}, [2]),
        ({">": "2020-05-17T12:30:00Z", "<": "2020-05-17T12:30:01Z"}, [2]),
        (NOON, [1]),
        (NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=-2))), []),
        ("2020-05-17T14:30+02:00", [1]),
        ("2020-05-17T00:00", [0]),
        ([NOON, dt.date(2020, 5, 17), "some time"], [0, 1, 3]),
        ({"not in": [NOON]}, [0, 2, 3, 4]),
        ({"<": np.datetime64("1970-01-01")}, [4]),
        ({">": "some"}, [3]),
    ],
)
def test_times_are_compared_as_times(tmp_path, condition, expected):
    assert found(write(tmp_path, TIMES), {"at": condition}) == expected


def test_filters_accept_numpy_and_decimal_values(columns):
    assert found(columns, {"year": {">=": Decimal("2021.5")}}) == [2]
    assert found(columns, {"year": np.float32(2021.5)}) == [2]
    with pytest.raises(DataError, match="year is a number, it can't be compared with '2020-01-01'"):
        found(columns, {"year": dt.date(2020, 1, 1)})
    with pytest.raises(DataError, match="values are texts, numbers, times, true or false"):
        found(columns, {"year": b"2020"})


def test_times_are_parsed_once_for_all_conditions(tmp_path, monkeypatch):
    rows = [{"at": f"2020-05-{day:02}", "dates": ["2021-01-01", f"2021-02-{day:02}"]} for day in range(1, 29)] * 3
    columns, read = write(tmp_path, rows), []
    monkeypatch.setattr(columns_module, "parse_time", lambda text: read.append(text) or parse_time(text))
    conditions = [{name: {op: NOON}} for name in ("at", "dates") for op in ("<", "<=", ">", ">=", "==", "!=")] * 20
    masks = [parse_where({"or": conditions}).mask(columns, len(rows)) for _ in range(2)]
    assert len(read) == 28 + 29
    assert masks[0].all()
    assert (masks[1] == masks[0]).all()
    assert parse_where({"dates": {">": "2021-02-27"}}).mask(columns, len(rows)).sum() == 3
    assert len(read) == 28 + 29


@settings(max_examples=40)
@given(st.lists(st.datetimes(timezones=st.none() | st.timezones()), min_size=1, max_size=8), st.data())
def test_times_compare_as_in_python(tmp_path_factory, times, data):
    wanted = data.draw(st.sampled_from(times) | st.datetimes(timezones=st.none() | st.timezones()))
    compare = data.draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
    columns = write(tmp_path_factory.mktemp("times"), [{"at": time.isoformat()} for time in times])
    mask = parse_where({"at": {compare: wanted}}).mask(columns, len(times))
    utc = [(t if t.tzinfo else t.replace(tzinfo=dt.UTC)) for t in [*times, wanted]]
    plain = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
    expected = [plain.get(compare, operator.ge)(time - utc[-1], dt.timedelta(0)) for time in utc[:-1]]
    assert mask.tolist() == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('author="Smith, John"', ["Smith, John"]),
        ('author="Smith, John", Doe', ["Smith, John", "Doe"]),
        ('author= a , "b ""c"" d" ,', ["a", 'b "c" d', ""]),
        ("author=5\", 6", ['5"', "6"]),
        ('author>="M, N"', ["M, N"]),
        ("author>=M, N", ["M, N"]),
        ("author=", [""]),
    ],
)  # fmt: skip
def test_quoted_values_may_contain_commas(text, values):
    (condition,) = parse_where_text([text]).conditions()
    assert list(map(str, condition.values)) == values


def test_an_unclosed_quote_is_reported():
    with pytest.raises(DataError, match="a double quote is not closed"):
        parse_where_text(['author="Smith, John'])


EDGES = [0, 1, -1, 2**53, 2**63, 2**64, 2**70, 10**400]
NUMBERS = st.one_of(
    st.builds(lambda edge, sign, beside: sign * edge + beside, st.sampled_from(EDGES), st.sampled_from([1, -1]),
              st.integers(-2, 2)),
    st.builds(lambda edge, by: float(edge) * by, st.sampled_from(EDGES[:-1]), st.sampled_from([1.0, -1.0, 0.5])),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
COMPARED = {**OPERATORS, "!=": operator.ne}


@given(
    docs=st.lists(st.one_of(st.none(), NUMBERS, st.lists(NUMBERS, min_size=1, max_size=3)), min_size=1, max_size=8),
    listed=st.booleans(),
    name=st.sampled_from(sorted(COMPARED)),
    value=NUMBERS,
    per_batch=st.integers(1, 5),
    cut=st.integers(0, 8),
)
def test_numbers_of_any_type_compare_exactly(tmp_path_factory, docs, listed, name, value, per_batch, cut):
    """Integers and fractions of any size compare as in Python, alone or in lists, in one or two segments."""
    docs = [doc if doc is None or isinstance(doc, list) == listed else [doc] if listed else doc[0] for doc in docs]
    rows = [{} if doc is None else {"n": doc} for doc in docs]
    parsed = parse_where({"n": {name: value}})
    wanted = []
    for doc in docs:
        met = [COMPARED[name](item, value) for item in (doc if listed else [doc])] if doc is not None else [False]
        wanted.append(all(met) if name == "!=" else any(met))
    for parts in ([rows], [rows[:cut], rows[cut:]]):
        masks = [
            parsed.mask(write(tmp_path_factory.mktemp("numbers"), part, per_batch), len(part)) for part in parts if part
        ]
        assert np.concatenate(masks).tolist() == wanted
        assert parsed.mask(None, 0).tolist() == []


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([1, 2**63 - 1, -(2**63)], pa.int64()),
        ([1, 2**63, 2**64 - 1], pa.uint64()),
        ([1, 0.5, 2**53], pa.float64()),
        ([1, 0.5, 2**53 + 1], pa.dictionary(pa.int32(), pa.string())),
        ([-1, 2**63], pa.dictionary(pa.int32(), pa.string())),
        ([2**64], pa.dictionary(pa.int32(), pa.string())),
    ],
)
@pytest.mark.parametrize("per_batch", [1, 3])
@pytest.mark.parametrize("listed", [False, True])
def test_numbers_are_stored_without_loss(tmp_path, values, stored, per_batch, listed):
    columns = write(tmp_path, [{"n": [value] if listed else value} for value in values], per_batch)
    column = columns.column("n")
    assert (column.values.type if listed else column.type) == stored
    assert columns.kinds == {"n": "list of number" if listed else "number"}
    for value in values:
        found = parse_where({"n": value}).mask(columns, len(values))
        assert [values[i] for i in np.flatnonzero(found)] == [value]


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 1e308, 0.1, -0.0])
def test_columns_of_any_type_compare_with_any_float(tmp_path, value):
    for n, numbers in enumerate(([1, -(2**63)], [0, 2**64 - 1], [0.1, 3.0], [2**70, 0.1])):
        (tmp_path / str(n)).mkdir()
        columns = write(tmp_path / str(n), [{"n": number} for number in numbers])
        for name, compare in OPERATORS.items():
            met = parse_where({"n": {name: value}}).mask(columns, 2)
            assert met.tolist() == [compare(number, value) for number in numbers]


def test_texts_in_a_number_column_are_reported_as_damage(tmp_path):
    for text in ('"x"', "true", "[1]", "", "9" * 5000):
        field = pa.field("n", pa.dictionary(pa.int32(), pa.string()), metadata={b"lsr.kind": b"number"})
        batch = pa.RecordBatch.from_arrays([pa.array([text]).dictionary_encode()], schema=pa.schema([field]))
        with pa.ipc.new_file(str(tmp_path / COLUMNS_FILE), batch.schema) as writer:
            writer.write_batch(batch)
        columns = Columns(tmp_path / COLUMNS_FILE, 1)
        with pytest.raises(CorruptIndex, match="a text where a number should be"):
            parse_where({"n": 1}).mask(columns, 1)


def test_a_number_beyond_pythons_digit_limit_is_refused(columns):
    with pytest.raises(DataError, match=r"year: .*digits"):
        found(columns, {"year": {"<": 10**5000}})
    assert found(columns, {"year": {"<": 10**400}}) == [0, 1, 2]
    assert found(columns, {"year": {">": -(10**400)}}) == [0, 1, 2]


# --- parts of texts ---------------------------------------------------------------------------------------------------

PIECES = st.text(st.sampled_from("aB\u00e9%_.*\u4e2d\U0001f642"), max_size=4)


@given(texts=st.lists(st.none() | PIECES | st.lists(PIECES, max_size=2), min_size=1, max_size=9), value=PIECES)
@settings(max_examples=60)
def test_prefix_and_contains_work_as_in_python(tmp_path_factory, texts, value):
    if len({type(text) for text in texts if text is not None}) != 1 or not any(texts):
        return
    docs = [None if text is None else {"t": text} for text in texts]
    columns = write(tmp_path_factory.mktemp("parts"), docs)
    if columns.kinds["t"] == "empty list":
        return
    for name, met in (("prefix", str.startswith), ("contains", str.__contains__)):
        expected = [
            i
            for i, text in enumerate(texts)
            if text is not None and any(met(one, value) for one in (text if isinstance(text, list) else [text]))
        ]
        parsed = parse_where({"t": {name: value}})
        assert np.flatnonzero(parsed.mask(columns, len(docs))).tolist() == expected


def test_prefix_and_contains_refuse_numbers(columns):
    for where in ({"year": {"prefix": "20"}}, {"draft": {"contains": "t"}}, {"lang": {"prefix": 3}}):
        with pytest.raises(DataError, match=r"is for texts|can't be compared with 3"):
            found(columns, where)
    with pytest.raises(DataError, match="prefix takes one value"):
        found(columns, {"lang": {"prefix": ["a", "b"]}})


def test_prefix_and_contains_work_on_a_command_line(columns):
    for text, expected in (("lang^=e", [0, 2]), ("author.name*=o", [4]), ('lang^="e,n"', []), ("lang == en", [0, 2])):
        parsed = parse_where_text([text])
        parsed.require_known([columns])
        assert np.flatnonzero(parsed.mask(columns, len(DOCS))).tolist() == expected


def test_hints_suggest_the_nearest_names_and_values(columns):
    with pytest.raises(DataError, match=r"no column 'lnag'; there are .*; did you mean 'lang'\?"):
        found(columns, {"lnag": "en"})
    hints = parse_where({"or": [{"lang": ["EN", "en"]}, {"author.name": "Adda"}, {"tags": "zzz"}]}).hints([columns])
    assert hints == [
        "lang has no value 'EN'; did you mean 'en'?",
        "author.name has no value 'Adda'; did you mean 'Ada'?",
        "tags has no value 'zzz'",
    ]
    assert parse_where({"lang": "en", "year": 3, "draft": True, "no": "x"}).hints([columns]) == []
