"""Reads safetensors and npz files that may be damaged or hostile: one ValueError that names the file."""

import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fmlfast.common.given_files import check_file
from fmlfast.common.tensor_file import CHECKSUM, checksum

MOST_ARRAYS = 2**29  # bytes of an npz file's arrays, unpacked


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads a safetensors file, mapped into memory.

    ValueError naming it where it is none, a number is not finite, or its checksum, if it has one, another one.
    """
    path = check_file(path)
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get(CHECKSUM)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError, OverflowError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} holds NaN or infinity")
    if told is not None and told != f"{checksum(tensors):08x}":
        raise ValueError(f"{path}: damaged (checksum): copy it anew from where it was made, or make it again")
    return tensors


def read_arrays(path: str | Path, most: int = MOST_ARRAYS) -> dict[str, NDArray]:
    """Reads the arrays of an npz file, without pickles; ValueError naming it where it is none, or unpacks to more."""
    path = check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > most:
                raise ValueError(f"over {most >> 20} MB when unpacked")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]} is no array")
        return arrays
    except Exception as error:  # zipfile, NumPy, and what they unpack and parse with each raise their own
        raise ValueError(f"{path}: damaged, or no npz file ({error})") from error


def check_tensors(path: str | PathLike[str], tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple]) -> None:
    """Checks what a file holds: of each name the type, then the shape, where letters stand for lengths.

    Raises ValueError, naming the file and the tensor, where one is missing, unknown, not finite, or not as `wanted`.
    """
    if other := wanted.keys() ^ tensors.keys():
        raise ValueError(f"{path}: {min(other)} is missing, or nobody knows it")
    lengths: dict[str, int] = {}
    for name, (dtype, *sides) in wanted.items():
        tensor = tensors[name]
        shape = list(tensor.shape)
        if len(shape) == len(sides):
            sides = [
                lengths.setdefault(side, length) if isinstance(side, str) else side
                for side, length in zip(sides, shape, strict=True)
            ]
        if tensor.dtype != dtype or shape != sides:
            raise ValueError(f"{path}: {name} has shape {shape}, {tensor.dtype}, not {sides}, {dtype}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} holds NaN or infinity")
