"""Damages files as disks, networks and attackers do, by hypothesis."""

import json
from typing import Any

from hypothesis import strategies as st

HOSTILE: list[Any] = [
    None, True, "", "x", "\0", "../../x", "\ud800", [], {}, -1, 0, 10**9, 10**400, 1e308, float("nan"), float("inf"),
    [[1]], ["x"], {"x": 1}, "<script>alert(1)</script>",
]  # fmt: skip
"""Values that stand where others should."""


def damages(payload: bytes) -> st.SearchStrategy[bytes]:
    """The file with flipped bits, cut short, or with bytes overwritten, taken out or repeated."""
    size = len(payload)
    place = st.integers(0, size - 1) | st.integers(0, min(size, 600) - 1)  # headers are at the start

    def flipped(bits: list[tuple[int, int]]) -> bytes:
        changed = bytearray(payload)
        for at, bit in bits:
            changed[at] ^= 1 << bit
        return bytes(changed)

    def written(at: int, new: bytes) -> bytes:
        return (payload[:at] + new + payload[at + len(new) :])[:size]

    new = st.sampled_from([b"\0" * 8, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 512]) | st.binary(
        max_size=9
    )
    ways = [
        st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4).map(flipped),
        place.map(lambda length: payload[:length]),
        st.tuples(place, new).map(lambda told: written(*told)),
        st.tuples(place, place).map(lambda ends: payload[: min(ends)] + payload[max(ends) :]),
        st.tuples(place, place).map(lambda ends: payload[: max(ends)] + payload[min(ends) :]),
    ]
    if payload[:1] == b"{" and payload.count(b"\n{") == 0:
        ways += [json_damages(payload)] * len(ways)
    return st.one_of(ways)


def json_damages(payload: bytes) -> st.SearchStrategy[bytes]:
    """JSON with one value replaced by a hostile one, or taken out."""
    paths = list(_paths(json.loads(payload)))

    def changed(told: tuple[tuple[Any, ...], Any, bool]) -> bytes:
        path, value, remove = told
        root = json.loads(payload)
        inner = root
        for key in path[:-1]:
            inner = inner[key]
        if remove:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return json.dumps(root).encode()

    return st.tuples(st.sampled_from(paths), st.sampled_from(HOSTILE), st.booleans()).map(changed)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """The places of values, of long lists the first and last only."""
    keys = (
        list(value) if isinstance(value, dict) else [*{0, len(value) - 1}] if isinstance(value, list) and value else []
    )
    for key in keys:
        yield (*path, key)
        yield from _paths(value[key], (*path, key))
