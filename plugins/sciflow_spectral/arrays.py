"""numpy or torch: the few array functions that the equations use, under one name each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_spectral.etdrk4 import Scheme


class Arrays:
    """Real Fourier transforms of a batch, in double precision.

    Parameters
    ----------
    backend : {"numpy", "torch"}
        Array library.
    device : str
        Where torch computes.

    Raises
    ------
    Invalid
        If the device is not there.
    """

    def __init__(self, backend: str, device: str) -> None:
        self.torch: Any = None
        self.device = device
        if backend == "torch":
            import torch

            if device.startswith("cuda") and not torch.cuda.is_available():
                raise Invalid(f"device {device!r} was asked for, torch sees no GPU here")
            self.torch = torch
        elif device != "cpu":
            raise Invalid(f"numpy computes on the cpu, not on {device!r}: take backend='torch'")

    def take(self, values: np.ndarray) -> Any:
        """From numpy, of any shape."""
        return values if self.torch is None else self.torch.from_numpy(values).to(self.device)

    def give(self, values: Any) -> np.ndarray:
        """To numpy."""
        return np.asarray(values if self.torch is None else values.cpu().numpy())

    def scheme(self, s: Scheme) -> Scheme:
        """The coefficients of a scheme, where the fields are."""
        return Scheme(*(self.take(np.ascontiguousarray(getattr(s, f.name))) for f in fields(s)))

    def forward(self, u: Any, axes: tuple[int, ...]) -> Any:
        """Real to complex, over the last axes."""
        if self.torch is not None:
            return self.torch.fft.rfftn(u, dim=axes)
        from scipy import fft

        return fft.rfftn(u, axes=axes)

    def inverse(self, v: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
        """Complex to real, over the last axes."""
        if self.torch is not None:
            return self.torch.fft.irfftn(v, s=shape, dim=axes)
        from scipy import fft

        return fft.irfftn(v, s=shape, axes=axes)
