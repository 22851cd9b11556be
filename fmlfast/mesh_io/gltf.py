"""Builds glTF 2.0 documents with one buffer, and encodes them as GLB."""

import io
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmlfast.common.version import __version__
from fmlfast.mesh_io.scene import sparse_rows

VERTICES, INDICES = 34962, 34963  # targets of buffer views
COMPONENT = {np.dtype(np.float32): 5126, np.dtype(np.uint16): 5123, np.dtype(np.uint32): 5125}
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP = 9729, 9987, 33071


class GltfDocument:
    """A glTF document and its buffer, in plain accessors that every reader knows."""

    def __init__(self) -> None:
        self.json: dict[str, Any] = {"asset": {"version": "2.0", "generator": f"fmlfast {__version__}"}}
        self.buffer = bytearray()

    def add(self, kind: str, item: dict[str, Any]) -> int:
        """Appends an item to one of the document's lists, such as "nodes", and returns its index."""
        items = self.json.setdefault(kind, [])
        items.append(item)
        return len(items) - 1

    def view(self, data: bytes, target: int | None = None) -> int:
        """Appends bytes to the buffer, aligned to 4, as a buffer view."""
        item = {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data)}
        self.buffer += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", item if target is None else {**item, "target": target})

    def accessor(self, array: NDArray[Any], target: int | None = None, bounds: bool = False) -> int:
        """Stores scalars [N] or vectors [N, 2..4] of float32, uint16 or uint32, with their bounds where asked."""
        return self.add("accessors", {"bufferView": self.view(_bytes(array), target), **_describe(array, bounds)})

    def indices(self, values: NDArray[Any], vertices: int) -> int:
        """Stores the corners of triangles, in 16 bits where these suffice."""
        return self.accessor(_index(values.ravel(), vertices), INDICES)

    def sparse(
        self,
        array: NDArray[np.float32],  # [V, 3]
        tolerance: float,
        bounds: bool = False,
    ) -> int:
        """Stores vectors of which only those longer than a tolerance are kept; the others read as 0."""
        rows = sparse_rows(array, tolerance)
        values = array[rows]
        kept = np.zeros_like(array)
        kept[rows] = values
        item = _describe(kept, bounds)
        if len(rows):
            index = _index(rows, len(array))
            item["sparse"] = {
                "count": len(rows),
                "indices": {"bufferView": self.view(_bytes(index)), "componentType": COMPONENT[index.dtype]},
                "values": {"bufferView": self.view(_bytes(values))},
            }
        return self.add("accessors", item)

    def texture(self, image: NDArray[np.uint8]) -> int:
        """Embeds an sRGB image [H, W, 3] as PNG, and returns its texture's index."""
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        sampler = {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP, "wrapT": CLAMP}
        source = self.add("images", {"bufferView": self.view(stream.getvalue()), "mimeType": "image/png"})
        return self.add("textures", {"sampler": self.add("samplers", sampler), "source": source})

    def to_glb(self) -> bytes:
        """Encodes header, JSON chunk padded with spaces, and BIN chunk."""
        document = {**self.json, "buffers": [{"byteLength": len(self.buffer)}]}
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        text = text.encode(errors="replace")  # names after files may be no Unicode
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + len(self.buffer)
        head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return head + text + struct.pack("<I4s", len(self.buffer), b"BIN\0") + bytes(self.buffer)


def _index(values: NDArray[Any], vertices: int) -> NDArray[Any]:
    return values.astype(np.uint16 if vertices < 65536 else np.uint32)  # id 65535 itself would be a restart mark


def _describe(array: NDArray[Any], bounds: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "componentType": COMPONENT[array.dtype],
        "count": len(array),
        "type": "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}",
    }
    if bounds:
        low, high = (np.atleast_1d(end).tolist() for end in (array.min(0), array.max(0)))
        item |= {"min": low, "max": high}
    return item


def _bytes(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
