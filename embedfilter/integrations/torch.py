"""A filter as a torch module, for models and devices that torch runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import torch
except ImportError as error:
    raise ImportError('to use filters in torch: pip install "embedfilter[torch]"') from error

if TYPE_CHECKING:
    from embedfilter.filter import EmbedFilter

__all__ = ["FilterModule"]


class FilterModule(torch.nn.Module):  # type: ignore[misc]
    """The filter: ``normalize(linear(x - mean))``.

    Parameters
    ----------
    f : EmbedFilter
        Its components become the weight of `linear`, which needs no gradient until
        ``requires_grad_()`` asks for it; the mean of a calibrated filter becomes the buffer `mean`.
    normalize : bool
        Scale rows to unit length; a row of zeros stays zero.
    """

    mean: torch.Tensor | None

    def __init__(self, f: EmbedFilter, *, normalize: bool = True) -> None:
        super().__init__()
        k, d = f.components.shape
        # Without memory, so that no random numbers are drawn for a weight that is replaced.
        self.linear = torch.nn.Linear(d, k, bias=False, device="meta")
        weight = torch.from_numpy(f.components.copy())
        self.linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        # Subtracted, not folded into a bias, which would cancel badly where the mean is large.
        self.register_buffer("mean", None if f.mean is None else torch.from_numpy(f.mean.copy()))
        self.normalize = normalize

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter embeddings.

        Parameters
        ----------
        x : (..., d) tensor of a float type
            Taken in the module's own type: float32 unless ``to`` has changed it.

        Returns
        -------
        (..., k) tensor of the module's type
        """
        x = x.to(self.linear.weight.dtype)
        if self.mean is not None:
            x = x - self.mean
        y = self.linear(x)
        if not self.normalize:
            return y
        return torch.nn.functional.normalize(y, dim=-1, eps=torch.finfo(y.dtype).tiny)

    def extra_repr(self) -> str:
        """Say what is done besides the projection."""
        return f"mean={self.mean is not None}, normalize={self.normalize}"
