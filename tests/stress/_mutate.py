"""Harms the content of a file: its bytes, or what it says as a STAR, MRC, JSON or checkpoint file."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

_MOST_BYTES = 300_000

WORDS = (
    "nan", "<NA>", "inf", "-inf", "1e999", "-1e999", "-1", "0", "-0", "0.5", "1.5", "2", "100000", "2147483647",
    "2147483648", "-2147483649", "9223372036854775808", "99999999999999999999", "1e18", "1e308", "1e-320", "1_000",
    "0x10", "1e5", "1,5", "٣", "½", "", '""', "''", '"', "'", '"a', "a\"b'c", "[1,0,1]", "[1,,1]", "[]", "[", "]",
    "[a,b]", "[" + ",".join(["1"] * 200) + "]", "[1]", "[nan,nan,nan]", "[1e999,0,0,0]", "[-1,2,3,4]", "[[1],[2]]",
    "../../x", "/etc/passwd", "/dev/zero", "/dev/stdin", "pipe", ".", "..", "/", "//", "~", "a" * 300, "b/" * 300,
    "\x01", "a\x00b", "\x1b[31m", "a\rb", "\u2028", "é", "漢字", "\u202e", "\ud800", "None", "True", "yes", "#x", "#",
    ";", "_rlnX", "data_", "data_x", "loop_", "1@", "@", "0@x.mrcs", "-1@x.mrcs", "99999999999999999999@x.mrcs",
    "1@/dev/null", "x@y", "1 2", "TS_01", "TS_99", "relion.refine3d", "C99999999999999999999", "C0", "I9", "*",
    "%s%n", "{0}", "$(id)", "job.star", "masks", "truth/truth_map.mrc", "masks/mtf.star", "Extract/job003",
)  # fmt: skip
"""What stands where a number, vector, name or path should."""


# ---- bytes


def _span(rng: Random, size: int, most: int = 64) -> tuple[int, int]:
    start = rng.randrange(size + 1)
    return start, min(size, start + rng.randint(1, most))


def _flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data))
    filler = rng.choice((b"\0", b"\xff", b" ", b"\n", b"9", b"[", b'"', b"\t"))
    return data[:start] + filler * (end - start) + data[end:]


def _delete(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data), rng.choice((1, 16, 1024)))
    return data[:start] + data[end:]


def _insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 64))) + data[at:]


def _truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, len(data), 512)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3, 20)) + data[end:]


def _swap(rng: Random, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, len(data)), _span(rng, len(data))))
    c, d = max(b, c), max(b, c, d)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _nothing_left(rng: Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\n", b"\0" * 2000, b"#", data + data))


BYTES: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _overwrite,
    _delete,
    _insert,
    _truncate,
    _repeat,
    _swap,
    _nothing_left,
)


# ---- STAR


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")


def _text(lines: Sequence[str]) -> bytes:
    return "\n".join(lines).encode(
        "utf-8", "surrogatepass" if any("\ud800" in one for one in lines) else "surrogateescape"
    )


def _loops(lines: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return of every loop: first label, first row, line after the last row."""
    found, at = [], 0
    while at < len(lines):
        at += 1
        if lines[at - 1].strip() != "loop_":
            continue
        labels = at
        while at < len(lines) and lines[at].startswith("_"):
            at += 1
        rows = at
        while (
            at < len(lines) and lines[at].strip() and not lines[at].startswith(("data_", "#", "_", "loop_"))
        ):
            at += 1
        found.append((labels, rows, at))
    return found


def _value(rng: Random) -> str:
    value = rng.choice(WORDS)
    return f'"{value}"' if " " in value or not value or rng.random() < 0.05 else value


def _change_row(rng: Random, line: str, column: int, value: str) -> str:
    words = line.split()
    if words:
        words[column % len(words)] = value
    return " ".join(words)


def _values(rng: Random, data: bytes) -> bytes:
    """Change a value in one row, some, or all; or one of a list."""
    lines = _lines(data)
    loops = [one for one in _loops(lines) if one[1] < one[2]]
    pairs = [
        i
        for i, line in enumerate(lines)
        if line.startswith("_") and len(line.split()) == 2 and "#" not in line
    ]
    if pairs and (not loops or rng.random() < 0.5):
        at = rng.choice(pairs)
        lines[at] = f"{lines[at].split()[0]} {_value(rng)}"
    elif loops:
        _, first, end = rng.choice(loops)
        column, value = rng.randrange(100), _value(rng)
        rows = range(first, end)
        for at in rng.choice(([rng.choice(rows)], rng.sample(rows, (len(rows) + 1) // 2), rows)):
            lines[at] = _change_row(rng, lines[at], column, value)
    return _text(lines)


def _labels(rng: Random, data: bytes) -> bytes:
    """Drop, repeat, rename or exchange a column's label, with its values or without."""
    lines = _lines(data)
    labels = [i for i, line in enumerate(lines) if line.startswith("_")]
    if not labels:
        return data
    at, what = rng.choice(labels), rng.randrange(6)
    for first, rows, end in _loops(lines):
        if first <= at < rows and what == 0:  # the column too
            column = at - first
            for row in range(rows, end):
                words = lines[row].split()
                lines[row] = " ".join(words[:column] + words[column + 1 :])
    if what <= 1:
        del lines[at]
    elif what == 2:
        lines.insert(at, lines[at])
    elif what == 3:
        lines[at] = rng.choice(
            ("_", "_x", "__", "_rlnCoordinateX", "_rlnTomoName", "_rln " + _value(rng), "x")
        )
    elif what == 4:
        other = rng.choice(labels)
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = lines[at].split("#")[0].lower() if rng.random() < 0.5 else lines[at] + " " + _value(rng)
    return _text(lines)


def _layout(rng: Random, data: bytes) -> bytes:
    """Insert, drop, double or move whole lines: blank, comments, rows, heads of tables."""
    lines = _lines(data)
    at, what = rng.randrange(len(lines)), rng.randrange(6)
    if what == 0:
        news = (
            "",
            "# version 30001",
            "#",
            " # remark",
            "; x",
            "data_",
            "data_particles",
            "loop_",
            "data_optics",
            "_a #1",
            "x y",
        )
        lines.insert(at, rng.choice(news))
    elif what == 1:
        del lines[at]
    elif what == 2:
        lines[at:at] = [lines[at]] * rng.choice((1, 2, 200))
    elif what == 3:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 4:
        lines[at] = (
            rng.choice(("#", " ", "\t", "")) + lines[at] + rng.choice(("", " ", " # remark", " extra", "\t1"))
        )
    else:
        lines[at] = lines[at].replace(" ", rng.choice(("", "\t", "\u00a0", "\r")))
    return _text(lines)


def _tables(rng: Random, data: bytes) -> bytes:
    """Swap, rename, repeat or empty tables."""
    lines = _lines(data)
    heads = [i for i, line in enumerate(lines) if line.startswith("data_")]
    what = rng.randrange(5)
    if heads and what == 0:
        a, b = rng.choice(heads), rng.choice(heads)
        lines[a], lines[b] = lines[b], lines[a]
    elif heads and what == 1:
        names = (
            "data_",
            "data_x",
            "data_particles",
            "data_optics",
            "data_general",
            "data_global",
            "DATA_particles",
        )
        lines[rng.choice(heads)] = rng.choice(names)
    elif heads and what == 2:
        start = rng.choice(heads)
        end = next((i for i in heads if i > start), len(lines))
        if rng.random() < 0.5:
            lines[end:end] = lines[start:end]
        else:
            del lines[start:end]
    elif loops := _loops(lines):
        _, rows, end = rng.choice(loops)
        del lines[rows if what == 3 else min(rows + 1, end) : end]
    return _text(lines)


def _encoding(rng: Random, data: bytes) -> bytes:
    return rng.choice(
        (
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: data.replace(b"\n", b"\r"),
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: data.replace(b"_0", b"\xe9", 1),
            lambda: data.replace(b" ", b"\t"),
            lambda: data.rstrip(b"\n"),
            lambda: data.replace(b"\n", b"\n\n"),
        )
    )()


STAR: tuple[Mutation, ...] = (_values, _values, _values, _labels, _layout, _tables, _encoding)


# ---- MRC

_INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    4,
    6,
    12,
    101,
    255,
    1023,
    4096,
    65535,
    2**21,
    2**22,
    2**31 - 1,
    -(2**31),
    0x44440000,
    542130509,
)
_FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e-30, 3.4e38, 1.0, 1e6)
_NAMED_WORDS = (0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23, 26, 52, 53, 55)


def _header(rng: Random, data: bytes) -> bytes:
    """Set a few of the header's 256 words."""
    changed = bytearray(data.ljust(1024, b"\0"))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        word = rng.choice(_NAMED_WORDS) if rng.random() < 0.8 else rng.randrange(256)
        order = rng.choice("<<<<>")
        if rng.random() < 0.7:
            changed[4 * word : 4 * word + 4] = struct.pack(f"{order}i", rng.choice(_INTEGERS))
        else:
            changed[4 * word : 4 * word + 4] = struct.pack(f"{order}f", rng.choice(_FLOATS))
    return bytes(changed)


def _axes(rng: Random, data: bytes) -> bytes:
    order = rng.choice(
        ((3, 2, 1), (2, 1, 3), (1, 3, 2), (2, 3, 1), (0, 0, 0), (1, 1, 1), (4, 5, 6), (-1, 2, 3))
    )
    return data[:64] + struct.pack("<3i", *order) + data[76:]


def _voxels(rng: Random, data: bytes) -> bytes:
    """Put what is no finite number among the voxels, or make all of them one value."""
    changed = bytearray(data)
    bad = struct.pack("<f", rng.choice(_FLOATS))
    if rng.random() < 0.3:
        changed[1024:] = (bad * (len(data) // 4 + 1))[: max(0, len(data) - 1024)]
    elif len(data) > 1032:
        at = 1024 + 4 * rng.randrange((len(data) - 1024) // 4)
        changed[at : at + 4] = bad
    return bytes(changed)


def _sizes(rng: Random, data: bytes) -> bytes:
    sizes = [rng.choice((0, 1, -1, 2, 16, 2**16, 2**21, 2**22, 2**31 - 1)) for _ in range(3)]
    return struct.pack("<3i", *sizes) + data[12:]


MRC: tuple[Mutation, ...] = (_header, _header, _header, _axes, _voxels, _sizes)


# ---- JSON

_THINGS: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**31, 2**63, 2**70, 10**400, "", "x", "nan", "../../x", "\ud800", "\0", "a" * 300, [], {},
    [1, [2, [3]]], {"a": {}}, float("nan"), float("inf"), "extract", "/dev/zero", "Running", [None], {"": None}, -(2**31),
)  # fmt: skip


def _places(thing: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    keys = list(thing) if isinstance(thing, dict) else range(len(thing)) if isinstance(thing, list) else ()
    for key in keys:
        found.append((thing, key))
        _places(thing[key], found)
    return found


def _change_json(rng: Random, data: bytes) -> bytes:
    """Give a value another type, drop it, or add one."""
    try:
        whole = [json.loads(data)]
    except (ValueError, RecursionError):
        return data
    holder, key = rng.choice(_places(whole, []))
    what = rng.randrange(4)
    if what == 0 and holder is not whole:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "job", "values", "status"))] = rng.choice(_THINGS)
    else:
        holder[key] = rng.choice(_THINGS)
    return json.dumps(whole[0]).encode("utf-8", "surrogatepass")


def _nest(rng: Random, data: bytes) -> bytes:
    depth = rng.choice((100, 5_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    at = data.find(b":") + 1 if rng.random() < 0.5 else 0
    inner = opening * depth + b"1" + closing * depth
    return data[:at] + inner + (data[data.find(b",", at) :] if at else b"")


def _number(rng: Random, data: bytes) -> bytes:
    number = rng.choice((b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"0x1", b"1.", b"'a'", b'"\\ud800"'))
    at = data.find(b":", rng.randrange(len(data) + 1)) + 1
    return data[:at] + number + data[data.find(b",", at) :] if at else number


JSON: tuple[Mutation, ...] = (_change_json, _change_json, _change_json, _nest, _number)


# ---- checkpoints


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # harmed before
        return {}


def _packed(rng: Random, members: Sequence[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in dict(members).items():
            archive.writestr(name, content)
    return made.getvalue()


def _array_head(rng: Random, content: bytes) -> bytes:
    """Let an array say another shape or type than it has."""
    head = rng.choice(
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (400000, 400000), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<U9', 'fortran_order': True, 'shape': (3,), }",
            "{'descr': '<c16', 'fortran_order': False, 'shape': (2,), }",
            "{'descr': '|b1', 'fortran_order': False, 'shape': (8, 3), }",
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f8', 'shape': (1,)", "nonsense(", "__import__('os')", "{" * 200, "",
        )
    )  # fmt: skip
    body = content[128:]
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head.encode() + b"\n" + body


def _about(rng: Random, content: bytes) -> bytes:
    """Harm the text that a checkpoint keeps beside its arrays, in an array that is itself whole."""
    import numpy as np

    try:
        text = str(np.load(io.BytesIO(content), allow_pickle=False))
    except Exception:  # harmed before
        return content
    for _ in range(rng.randint(1, 2)):
        text = rng.choice(JSON)(rng, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    made = io.BytesIO()
    np.save(made, np.array(text))
    return made.getvalue()


def _archive(rng: Random, data: bytes) -> bytes:
    """Drop, rename, double or harm members of the archive."""
    members = _members(data)
    if not members:
        return data
    name, what = rng.choice(sorted(members)), rng.randrange(8)
    if what == 0:
        del members[name]
    elif what == 1:
        members[rng.choice(("x.npy", "..", "../x.npy", "state.npy", name.removesuffix(".npy")))] = (
            members.pop(name)
        )
    elif what == 2:
        members[name] = members[rng.choice(sorted(members))]
    elif what == 3:
        members[name] = _array_head(rng, members[name])
    elif what == 4:
        members[name] = rng.choice(BYTES)(rng, members[name])
    elif "about.npy" in members:
        members["about.npy"] = _about(rng, members["about.npy"])
    return _packed(rng, list(members.items()))


ZIP: tuple[Mutation, ...] = (_archive, _archive, _archive, _archive)

KINDS: dict[str, tuple[Mutation, ...]] = {"star": STAR, "mrc": MRC, "json": JSON, "zip": ZIP}


def mutate(rng: Random, kind: str, data: bytes) -> bytes:
    """Harm a file's content once to three times; mostly as its kind suggests, else its bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(KINDS[kind] if rng.random() < 0.75 else BYTES)(rng, data)[:_MOST_BYTES]
    return data
