"""History: the decisions of a member as a table, and all that a restart needs as bytes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

INTEGERS = ("arm", "status", "iterations", "fell_back", "setup", "known", "solves", "solve", "bound")


class History:
    """A table that grows by rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, row: Mapping[str, float], features: Mapping[str, float]) -> None:
        """One decision and its outcome."""
        self.rows.append({**row, **{f"feature_{k}": float(v) for k, v in features.items()}})

    def columns(self) -> dict[str, np.ndarray]:
        """Each shape (row,), int64 or float64; NaN where a row lacks a feature."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {
            n: np.array(
                [row.get(n, math.nan) for row in self.rows], dtype=np.int64 if n in INTEGERS else np.float64
            )
            for n in names
        }


def pack(document: Any) -> np.ndarray:
    """JSON with arrays in it as bytes, dtype uint8; floats keep their bits."""
    return np.frombuffer(json.dumps(document, default=_array).encode(), dtype=np.uint8).copy()


def _array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": value.dtype.str, "shape": list(value.shape), "data": data}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in a state")


def unpack(data: np.ndarray) -> Any:
    """What `pack` was given, from bytes of shape (n,); tuples come back as lists."""
    return json.loads(np.asarray(data, dtype=np.uint8).tobytes().decode(), object_hook=_object)


def _object(value: dict[str, Any]) -> Any:
    if "__array__" not in value:
        return value
    flat = np.frombuffer(base64.b64decode(value["data"]), dtype=value["__array__"])
    return flat.reshape(value["shape"]).copy()
