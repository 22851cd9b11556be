"""Reads GLB files by the letter of the glTF 2.0 specification, and poses their nodes."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KINDS = {5126: "<f4", 5125: "<u4", 5123: "<u2"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


class Glb:
    """The JSON of a GLB as `document`, and its arrays by accessor."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, total = struct.unpack_from("<4sII", data)
        assert (magic, version, total) == (b"glTF", 2, len(data))
        length, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON" and length % 4 == 0
        self.document: dict[str, Any] = json.loads(data[20 : 20 + length])
        binary_length, kind = struct.unpack_from("<I4s", data, 20 + length)
        assert kind == b"BIN\0" and binary_length % 4 == 0 and 28 + length + binary_length == len(data)
        self.binary = data[28 + length :]
        assert self.document["buffers"] == [{"byteLength": len(self.binary)}]

    def view(self, index: int) -> bytes:
        view = self.document["bufferViews"][index]
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(self.binary)
        return self.binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]

    def accessor(self, index: int) -> np.ndarray:
        """The values [N, C] of an accessor, checked against its bounds."""
        item = self.document["accessors"][index]
        columns, kind = WIDTHS[item["type"]], np.dtype(KINDS[item["componentType"]])
        if "bufferView" in item:
            values = np.frombuffer(self.view(item["bufferView"]), kind)
        else:
            values = np.zeros(item["count"] * columns, kind)
        assert len(values) == item["count"] * columns
        values = values.reshape(-1, columns).copy()
        if "sparse" in item:
            sparse = item["sparse"]
            rows = np.frombuffer(self.view(sparse["indices"]["bufferView"]), KINDS[sparse["indices"]["componentType"]])
            kept = np.frombuffer(self.view(sparse["values"]["bufferView"]), kind).reshape(-1, columns)
            assert len(rows) == len(kept) == sparse["count"] and (np.diff(rows.astype(int)) > 0).all()
            values[rows] = kept
        if "min" in item:
            np.testing.assert_array_equal(np.array(item["min"], kind), values.min(0))
            np.testing.assert_array_equal(np.array(item["max"], kind), values.max(0))
        return values

    def node(self, name: str) -> dict[str, Any]:
        (found,) = [node for node in self.document["nodes"] if node["name"] == name]
        return found

    def mesh(self, name: str) -> dict[str, Any]:
        return self.document["meshes"][self.node(name)["mesh"]]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The attributes and indices of a node's mesh."""
        (primitive,) = self.mesh(name)["primitives"]
        found = {key: self.accessor(index) for key, index in primitive["attributes"].items()}
        return {**found, "indices": self.accessor(primitive["indices"]).reshape(-1, 3)}

    def targets(self, name: str, attribute: str = "POSITION") -> np.ndarray:
        """The morph targets [M, V, 3] of a node's mesh."""
        targets = self.mesh(name)["primitives"][0]["targets"]
        return np.stack([self.accessor(target[attribute]) for target in targets])

    def texture(self, material: int = 0) -> np.ndarray:
        """The base colour image of a material."""
        place = self.document["materials"][material]["pbrMetallicRoughness"]["baseColorTexture"]["index"]
        image = self.document["images"][self.document["textures"][place]["source"]]
        return np.asarray(Image.open(io.BytesIO(self.view(image["bufferView"]))))

    def frames(self) -> list[dict[str, np.ndarray]]:
        """The world positions of every mesh's vertices, by node, in each frame of the one animation."""
        (animation,) = self.document["animations"]
        tracks = {}
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            assert sampler["interpolation"] == "LINEAR"
            tracks[channel["target"]["node"], channel["target"]["path"]] = self.accessor(sampler["output"])
            self.times = self.accessor(sampler["input"])[:, 0]
        return [self._frame(tracks, index) for index in range(len(self.times))]

    def _frame(self, tracks: dict[tuple[int, str], np.ndarray], index: int) -> dict[str, np.ndarray]:
        def matrix(number: int, node: dict[str, Any]) -> np.ndarray:
            def value(path: str, rest: list[float]) -> np.ndarray:
                track = tracks.get((number, path))
                return np.asarray(node.get(path, rest)) if track is None else track[index]

            x, y, z, w = value("rotation", [0, 0, 0, 1])
            cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            result = np.eye(4)
            result[:3, :3] += 2 * w * cross + 2 * cross @ cross
            result[:3, 3] = value("translation", [0, 0, 0])
            return result

        nodes = self.document["nodes"]
        (root,) = self.document["scenes"][self.document["scene"]]["nodes"]
        found = {}
        for child in nodes[root]["children"]:
            node = nodes[child]
            points = self.arrays(node["name"])["POSITION"].astype(float)
            if (child, "weights") in tracks:
                weights = tracks[child, "weights"].reshape(len(self.times), -1)[index]
                points += np.einsum("m,mvc->vc", weights, self.targets(node["name"]))
            whole = matrix(root, nodes[root]) @ matrix(child, node)
            found[node["name"]] = points @ whole[:3, :3].T + whole[:3, 3]
        return found
