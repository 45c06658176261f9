"""STAR files: nothing that we do not touch may change."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_sta.data.errors import InputError
from napari_sta.io.star import (
    Table,
    first_table,
    format_number,
    format_vector,
    parse_vector,
    read_star,
    table,
    text_column,
    write_star,
)


def _same(one: dict[str, Table], other: dict[str, Table]) -> bool:
    return list(one) == list(other) and all(
        one[name].is_loop == other[name].is_loop
        and {k: list(v) for k, v in one[name].columns.items()}
        == {k: list(v) for k, v in other[name].columns.items()}
        and list(one[name].columns) == list(other[name].columns)
        for name in one
    )


def test_every_sample_file_survives_a_round_trip(data, tmp_path):
    files = sorted(data.rglob("*.star"))
    assert len(files) >= 12
    for file in files:
        before = read_star(file)
        write_star(tmp_path / "copy.star", before)
        assert _same(before, read_star(tmp_path / "copy.star")), file


def test_starfile_package_reads_the_same(data, tmp_path):
    starfile = pytest.importorskip("starfile")
    source = data / "project/Refine3D/job016/run_it003_data.star"
    write_star(tmp_path / "ours.star", read_star(source))
    theirs, ours = starfile.read(source), starfile.read(tmp_path / "ours.star")
    assert list(theirs) == list(ours)
    assert theirs["particles"].equals(ours["particles"])
    assert theirs["optics"].equals(ours["optics"])


def test_text_stays_verbatim(tmp_path):
    path = tmp_path / "x.star"
    path.write_text(
        '# a comment\n\n# version 50001\n\ndata_\n\n_rlnA   001\n_rlnEmpty ""\n_rlnSpaced  "two words"\n'
        "_rlnNothing\n \n"
        "\ndata_rows\n\nloop_ \n_rlnTomoName #1 \n_rlnValue #2 \n_rlnWords #3\n"
        "001  -21.64652 \"a b\"\n nan   1e-9  ''\n a#3\t5.0 it's\n\n"
    )
    tables = read_star(path)
    assert list(tables) == ["", "rows"]
    assert tables[""].row() == {"rlnA": "001", "rlnEmpty": "", "rlnSpaced": "two words", "rlnNothing": ""}
    assert not tables[""].is_loop
    assert tables["rows"]["rlnTomoName"].tolist() == ["001", "nan", "a#3"]
    assert tables["rows"]["rlnValue"].tolist() == ["-21.64652", "1e-9", "5.0"]
    assert tables["rows"]["rlnWords"].tolist() == ["a b", "", "it's"]
    assert first_table(tables).name == ""


def test_written_syntax_is_relions(tmp_path):
    path = tmp_path / "x.star"
    write_star(
        path,
        [
            Table("general", {"rlnFlag": text_column(["1"])}, is_loop=False),
            table("rows", {"rlnName": ["a b", ""], "rlnValue": ["1", "2"]}),
        ],
        comment="made by hand",
    )
    text = path.read_text()
    assert text.startswith("# made by hand\n\n# version 50001\n\ndata_general\n\n_rlnFlag ")
    # RELION looks for the first empty line after the rows, and wants a blank before the '#'.
    assert "\nloop_ \n_rlnName #1 \n_rlnValue #2 \n" in text
    assert '       "a b"            1 \n          ""            2 \n \n' in text


def test_empty_loop_and_windows_line_ends(tmp_path):
    path = tmp_path / "x.star"
    path.write_bytes(
        b"data_a\r\n\r\nloop_\r\n_rlnX #1\r\n_rlnY #2\r\n\r\ndata_b\r\n\r\nloop_\r\n_rlnZ #1\r\n7\r\n"
    )
    tables = read_star(path)
    assert len(tables["a"]) == 0
    assert list(tables["a"].columns) == ["rlnX", "rlnY"]
    assert tables["b"]["rlnZ"].tolist() == ["7"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("hello\n", "no STAR file", id="no data line"),
        pytest.param("", "no STAR file", id="empty"),
        pytest.param(
            "data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n1 2\n1 2 3\n", r"line 7: 3 values.*2 columns", id="long row"
        ),
        pytest.param(
            "data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n1\n", r"line 6: 1 values.*2 columns", id="short row"
        ),
        pytest.param(
            "data_a\n\nloop_\n_rlnX #1\n1\n\n2\n",
            r"line 7: '2' stands after table data_a",
            id="row after gap",
        ),
        pytest.param(
            "data_a\n\n_rlnX 1\n\ndata_a\n\n_rlnX 1\n", "two tables named data_a", id="same name twice"
        ),
        pytest.param(
            "data_a\n\nloop_\n_rlnX #1\n_rlnX #2\n1 1\n", "column _rlnX twice", id="same column twice"
        ),
        pytest.param("data_a\n\n_rlnX 1\n_rlnX 2\n", "line 4.*_rlnX twice", id="same list label twice"),
        pytest.param('data_a\n\n_rlnX "a b" c\n', "line 3.*more than one value", id="two list values"),
        pytest.param(
            "data_a\n\n_rlnX 1\nloop_\n_rlnY\n2\n", "line 4: 'loop_' stands after", id="loop in list"
        ),
        pytest.param(
            "data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n_TS 1\n2 2\n", "line 6: '1' stands after", id="row as label"
        ),
        *(
            pytest.param(
                f"data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n1 2\n{row}\n",
                "line 7: .* is a comment",
                id=f"row {row}",
            )
            for row in ("#3 4", "# 3 4", " #", "#3 4 # why", ";3 4", " ; 3 4")
        ),
        pytest.param("data_a\n\nloop_\n_rlnX #1\n1\n#2\n", "line 6: .* is a comment", id="one column"),
        pytest.param("\ufeffhello\n", "no STAR file", id="byte order mark alone"),
        pytest.param("data_a\n\nloop_\n\n1 1\n", "no column labels", id="loop without labels"),
        pytest.param("data_a\n\nrubbish\n", "must start with loop_", id="rubbish in a table"),
        pytest.param("\0\1\2MAP ", "binary", id="binary"),
    ],
)
def test_what_is_refused(tmp_path, content, words):
    path = tmp_path / "bad.star"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as error:
        read_star(path)
    assert "bad.star" in str(error.value)


_LOOP = "data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n{}1 2\n3 4{}\n\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_LOOP.format("# mine\n", ""), id="comment after the labels"),
        pytest.param(_LOOP.format("\n\n; mine\n\n", ""), id="blank and semicolon after the labels"),
        pytest.param(
            _LOOP.format("# data_b\n", "").replace("_rlnY", "# why\n\n_rlnY"), id="among the labels"
        ),
        pytest.param(_LOOP.format("", "").replace("_rlnY", "_rlnY#2"), id="number that touches its label"),
        pytest.param(_LOOP.format("", " # nice"), id="remark after a row"),
        pytest.param(_LOOP.format("", " #nice 5 6"), id="remark that touches its mark"),
        pytest.param("\ufeff" + _LOOP.format("", ""), id="byte order mark"),
        pytest.param("\ufeff# made in Windows\n" + _LOOP.format("", ""), id="byte order mark and comment"),
        pytest.param(("\ufeff" + _LOOP.format("# x\n", "")).replace("\n", "\r\n"), id="Windows"),
        pytest.param("; mine\n" + _LOOP.format("", "") + "; the end\n", id="semicolons between tables"),
        pytest.param(
            _LOOP.format("", "").replace("loop_", "# before\n;\nloop_ # the rows"), id="before loop_"
        ),
        pytest.param(_LOOP.format("", "").replace("\n1", "\n   1"), id="indented row"),
    ],
)
def test_comments_and_blank_lines_where_relion_skips_them(tmp_path, content):
    path = tmp_path / "x.star"
    path.write_text(content, encoding="utf-8", newline="")
    tables = read_star(path)
    assert list(tables) == ["a"]
    assert tables["a"]["rlnX"].tolist() == ["1", "3"]
    assert tables["a"]["rlnY"].tolist() == ["2", "4"]


def test_lists_with_comments_and_blank_lines(tmp_path):
    path = tmp_path / "x.star"
    path.write_text(
        "data_\n\n# mine\n_rlnA 1\n\n_rlnB  x.star # remark\n; _rlnA 5\n\n  _rlnC two words # and more\n"
        '_rlnD "a # b"  # c\n_rlnE 1@x#1.mrc\n_rlnF # nothing\n_rlnG\t7\n\ndata_b\n_rlnA 2\n'
    )
    tables = read_star(path)
    wanted = {"A": "1", "B": "x.star", "C": "two words", "D": "a # b", "E": "1@x#1.mrc", "F": "", "G": "7"}
    assert tables[""].row() == {f"rln{key}": value for key, value in wanted.items()}
    assert tables["b"].row() == {"rlnA": "2"}


def test_marks_inside_values_are_no_comments(tmp_path):
    path = tmp_path / "x.star"
    path.write_text(
        'data_a\n\nloop_\n_rlnX #1\n_rlnY #2\n"#1" 1@x#1.mrc\na#b ;\n\'; c\' "d # e" # f\n";" "#"\n'
    )
    found = read_star(path)["a"]
    assert found["rlnX"].tolist() == ["#1", "a#b", "; c", ";"]
    assert found["rlnY"].tolist() == ["1@x#1.mrc", ";", "d # e", "#"]


def test_rows_may_look_like_tables(tmp_path):
    path = tmp_path / "x.star"
    path.write_text(
        "data_a\n\nloop_\n_rlnX #1\n_rlnY #2\ndata_01 1\nloop_2 2\n_3 3\ndata_b 4 # last\n\n"
        "data_b\n\nloop_\n_rlnX #1\ndata_01\nloop_2\n\ndata_c\n\nloop_\n_rlnX #1\n1\n"
        "data_d\nloop_\n_rlnX #1\n_rlnY #2\n\n# none\n\ndata_e\n\nloop_\n_rlnX #1\n\ndata_f\n_rlnX 1\n"
    )
    tables = read_star(path)
    found = {name: one["rlnX"].tolist() for name, one in tables.items()}
    assert found == {
        "a": ["data_01", "loop_2", "_3", "data_b"],
        "b": ["data_01", "loop_2"],
        "c": ["1"],
        "d": [],
        "e": [],
        "f": ["1"],
    }
    write_star(tmp_path / "copy.star", tables)
    assert _same(tables, read_star(tmp_path / "copy.star"))
    # What RELION would take for a label, a comment or nothing stands in quotes.
    assert '"_3"' in (tmp_path / "copy.star").read_text()


@pytest.mark.parametrize("value", ["#5", "# 5", ";", ";x", "_x", "data_x", "loop_", "data_x y"])
@pytest.mark.parametrize("is_loop", [True, False])
def test_values_that_look_like_syntax_are_quoted(tmp_path, value, is_loop):
    path = tmp_path / "x.star"
    made = table("a", {"rlnX": [value], "rlnY": [value]}, is_loop=is_loop)
    write_star(path, [made])
    assert _same({"a": made}, read_star(path))
    # First in a row all of them, and a mark of a comment anywhere.
    quoted = path.read_text().count(f'"{value}"')
    assert quoted >= (2 if value[0] == "#" else 1 if is_loop else 0)


def test_a_table_without_rows_has_an_empty_first_row():
    assert table("a", {"rlnX": []}).row() == {}
    assert table("a", {}).row() == {}


def test_utf16_and_what_is_no_regular_file(tmp_path):
    path = tmp_path / "x.star"
    path.write_text("data_a\n_rlnX 1\n", encoding="utf-16")
    with pytest.raises(InputError, match="UTF-16"):
        read_star(path)
    os.mkfifo(tmp_path / "pipe.star")
    for bad in (tmp_path / "pipe.star", "/dev/zero"):
        with pytest.raises(InputError, match="no regular file"):
            read_star(bad)
    with pytest.raises(InputError, match="cannot be read"):
        read_star("x" * 300 + ".star")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"nope\.star does not exist"):
        read_star(tmp_path / "nope.star")
    with pytest.raises(InputError, match="is a folder"):
        read_star(tmp_path)


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "x.star"
    for value in ("two\nlines", "both \" and '"):
        with pytest.raises(InputError, match="rlnBad"):
            write_star(path, [table("a", {"rlnGood": ["1"], "rlnBad": [value]})])
    with pytest.raises(InputError, match="differ in length"):
        write_star(path, [table("a", {"rlnX": ["1"], "rlnY": ["1", "2"]})])
    assert list(tmp_path.iterdir()) == []


_label = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True)
_value = st.one_of(
    st.from_regex(r"-?[0-9]{1,5}\.[0-9]{1,8}", fullmatch=True),
    st.sampled_from(
        [
            "",
            "001",
            "nan",
            "[1,0,1]",
            "_x",
            "#5",
            "# 5",
            "a#b",
            ";x",
            "data_x",
            "loop_",
            "it's",
            '"q',
            "a b",
            " lead",
            "\ttab",
        ]
    ),
    st.text(st.characters(exclude_characters='\n\r\0"', exclude_categories=("Cs",)), max_size=12),
)


@st.composite
def _tables(draw):
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9_]{0,9}", fullmatch=True), min_size=1, max_size=3, unique=True)
    )
    tables = []
    for name in names:
        labels = draw(st.lists(_label, min_size=1, max_size=4, unique=True))
        is_loop = draw(st.booleans())
        n = draw(st.integers(0, 4)) if is_loop else 1
        columns = {label: text_column(draw(st.lists(_value, min_size=n, max_size=n))) for label in labels}
        tables.append(Table(name, columns, is_loop))
    return tables


@settings(max_examples=150, deadline=None)
@given(_tables())
def test_any_table_survives_a_round_trip(tmp_path_factory, tables):
    path = tmp_path_factory.mktemp("star") / "x.star"
    write_star(path, tables)
    assert _same({one.name: one for one in tables}, read_star(path))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000000"),
        (-0.0, "0.000000"),
        (540.2215141, "540.221514"),
        (-21.646524, "-21.646524"),  # RELION writes -21.64652
        (0.001, "0.001000"),
        (0.000999, "9.990000e-04"),
        (-1e-9, "-1.000000e-09"),
        (100000.0, "100000.000000"),  # RELION cuts this at 12 characters
        (161595.25, "161595.250000"),
        (1.5e-100, "1.500000e-100"),
    ],
)
def test_number_rule(value, text):
    assert format_number([value]).tolist() == [text]


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_six_decimals(value):
    back = float(format_number([value])[0])
    assert abs(back - value) <= 0.5000001e-6 * max(1.0, abs(value) * 1e-9)
    if 0 < abs(value) < 1e-3:
        assert abs(back - value) <= 0.5000001e-6 * 10 * abs(value)


def test_numbers_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        format_number([1.0, np.nan])


def test_vectors():
    assert parse_vector("[]").tolist() == []
    assert parse_vector("[1,-2.5,3e-3]").tolist() == [1, -2.5, 3e-3]
    assert format_vector([1, -2.5, 1 / 3]) == "[1,-2.5,0.333333333333]"
    with pytest.raises(ValueError, match="not a vector"):
        parse_vector("1,2")


def test_the_text_of_tables_is_relions(tmp_path):
    """Labels of lists padded to twelve more than the longest, columns to twelve; an end line after each table."""
    path = tmp_path / "some.star"
    short = {"rlnA": text_column(["1"]), "rlnLongest": text_column(["two words"])}
    columns = {"rlnA": text_column(["1", "-2.5"]), "rlnB": text_column(["x", "longer than twelve"])}
    write_star(
        path,
        {"one": Table("one", short, is_loop=False), "two": Table("two", columns, is_loop=True)},
        comment="said",
    )
    assert path.read_text() == (
        "# said\n"
        "\n# version 50001\n\ndata_one\n\n"
        "_rlnA                   1\n"
        '_rlnLongest             "two words"\n'
        " \n"
        "\n# version 50001\n\ndata_two\n\n"
        "loop_ \n_rlnA #1 \n_rlnB #2 \n"
        "           1            x \n"
        '        -2.5 "longer than twelve" \n'
        " \n"
    )
