# SPDX-License-Identifier: Apache-2.0
"""The structures of state.h, for ctypes."""

import ctypes


class Ins(ctypes.Structure):
    """An instruction."""

    _fields_ = [
        *((n, ctypes.c_int32) for n in ("op", "pred", "negated", "ftz", "width", "count", "cls", "sign")),
        ("d", ctypes.c_int32 * 4),
        ("s", ctypes.c_int32 * 4),
        ("target", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("offset", ctypes.c_int64),
    ]


class Area(ctypes.Structure):
    """A tensor argument in memory."""

    _fields_ = [
        ("host", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("space", ctypes.c_uint64),
        ("shadow", ctypes.c_void_p),
        ("sectors", ctypes.c_void_p),
        ("touched", ctypes.c_void_p),
        ("granule", ctypes.c_int32),
        ("poisoned", ctypes.c_int32),
    ]


class Event(ctypes.Structure):
    """What was found."""

    _fields_ = [
        ("type", ctypes.c_int32),
        ("pc", ctypes.c_int32),
        ("otherpc", ctypes.c_int32),
        ("block", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("otherblock", ctypes.c_uint32),
        ("otherthread", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
    ]


COUNTERS = (
    "warp_instructions thread_instructions branches divergent_branches barriers "
    "load_requests load_lanes load_bytes load_sectors load_ideal load_lines "
    "store_requests store_lanes store_bytes store_sectors store_ideal store_lines block_sectors "
    "shared_requests shared_wavefronts shared_ideal "
    "atomic_requests atomic_lanes atomic_addresses atomic_depth atomic_empty "
    "fp32 special integer shuffles conversions moves blocks empty_loads uniform_loads"
).split()
"""Names of the counters: of warps unless said otherwise."""


class Counters(ctypes.Structure):
    """What a launch cost."""

    _fields_ = [(name, ctypes.c_uint64) for name in COUNTERS]


class Launch(ctypes.Structure):
    """A launch and how it is run."""

    _fields_ = [
        ("code", ctypes.c_void_p),
        ("instructions", ctypes.c_int32),
        ("r32", ctypes.c_int32),
        ("r64", ctypes.c_int32),
        ("preds", ctypes.c_int32),
        ("init32", ctypes.c_void_p),
        ("init64", ctypes.c_void_p),
        ("fixed32", ctypes.c_int32),
        ("fixed64", ctypes.c_int32),
        ("tid", ctypes.c_int32 * 3),
        ("ctaid", ctypes.c_int32 * 3),
        ("nctaid", ctypes.c_int32 * 3),
        ("ntid", ctypes.c_int32 * 3),
        ("laneid", ctypes.c_int32),
        ("warps", ctypes.c_int32),
        ("shared", ctypes.c_uint32),
        ("shared_base", ctypes.c_uint32),
        ("params", ctypes.c_void_p),
        ("areas", ctypes.c_void_p),
        ("area_count", ctypes.c_int32),
        ("order", ctypes.c_void_p),
        ("blocks", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("resident", ctypes.c_int32),
        ("random", ctypes.c_int32),
        ("divergent", ctypes.c_int32),
        ("races", ctypes.c_int32),
        ("counting", ctypes.c_int32),
        ("approximate", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("counters", ctypes.c_void_p),
        ("events", ctypes.c_void_p),
        ("event_count", ctypes.c_int32),
        ("issued", ctypes.c_void_p),
        ("sectors_by_pc", ctypes.c_void_p),
    ]
