"""A filter as a torch module, beside `transform`."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from embedfilter import EmbedFilter
from embedfilter.integrations.torch import FilterModule

D = 48


@pytest.mark.parametrize("normalize", [True, False])
def test_it_does_what_transform_does(f: EmbedFilter, X: np.ndarray, normalize: bool) -> None:
    found = f.to_torch(normalize=normalize)(torch.from_numpy(X))
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - f.transform(X, normalize=normalize)).max() < 1e-5


def test_any_leading_dimensions(f: EmbedFilter, X: np.ndarray) -> None:
    module = f.to_torch()
    whole = module(torch.from_numpy(X.reshape(4, 50, D)))
    assert whole.shape == (4, 50, f.n_components)
    assert torch.allclose(whole.reshape(200, -1), module(torch.from_numpy(X)), atol=1e-6)
    assert module(torch.from_numpy(X[0])).shape == (f.n_components,)
    assert module(torch.empty(0, D)).shape == (0, f.n_components)


def test_a_large_mean_does_not_cancel(edge: EmbedFilter, X: np.ndarray) -> None:
    far = X + np.float32(1e4)
    f = EmbedFilter(**edge.__getstate__() | {"mean": far.mean(axis=0)})
    expected = (far.astype(np.float64) - f.mean) @ f.components.T.astype(np.float64)
    found = f.to_torch(normalize=False)(torch.from_numpy(far)).numpy()
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(f: EmbedFilter, X: np.ndarray, dtype: torch.dtype) -> None:
    x = torch.from_numpy(X).to(dtype)
    found = f.to_torch()(x)
    assert found.dtype == torch.float32  # the module's own
    assert np.abs(found.numpy() - f.transform(x)).max() < 1e-5
    converted = f.to_torch().to(dtype)
    y = converted(x)
    assert y.dtype == dtype
    assert np.abs(y.double().numpy() - f.transform(x)).max() < 0.05
    zeros = converted(torch.zeros(2, D) if f.mean is None else converted.mean.expand(2, D))
    assert not zeros.any()  # and not NaN


def test_gradients_are_those_of_the_function(f: EmbedFilter, X: np.ndarray) -> None:
    module = f.to_torch().double()
    x = torch.from_numpy(X[:3]).double().requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    module.requires_grad_()(x).square().sum().backward()
    assert module.linear.weight.grad.shape == f.components.shape


def test_state_dict(f: EmbedFilter, edge: EmbedFilter, X: np.ndarray, tmp_path) -> None:
    module = f.to_torch()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(state) == ({"linear.weight"} if f.mean is None else {"linear.weight", "mean"})
    other = EmbedFilter.from_matrix(np.random.default_rng(5).standard_normal((300, D)))
    again = (other if f.mean is None else other.calibrate(X + 1)).to_torch()
    x = torch.from_numpy(X)
    assert not torch.equal(again(x), module(x))
    again.load_state_dict(state)
    assert torch.equal(again(x), module(x))
    if f.mean is not None:
        with pytest.raises(RuntimeError, match="mean"):
            edge.to_torch().load_state_dict(state)


def test_it_is_a_copy_and_draws_no_random_numbers(f: EmbedFilter) -> None:
    before = torch.get_rng_state()
    module = f.to_torch()
    assert torch.equal(torch.get_rng_state(), before)
    kept = f.components.copy()
    module.linear.weight.data.zero_()
    np.testing.assert_array_equal(f.components, kept)


def test_any_device(f: EmbedFilter) -> None:
    module = f.to_torch().to("meta")
    assert module(torch.empty(3, D, device="meta")).device.type == "meta"


def test_refuses_another_width(f: EmbedFilter) -> None:
    with pytest.raises(RuntimeError):
        f.to_torch()(torch.zeros(3, D - 1))


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_compiled(f: EmbedFilter, X: np.ndarray) -> None:
    compiled = torch.compile(f.to_torch(), fullgraph=True, dynamic=True)
    for n in (1, 7, 200):
        found = compiled(torch.from_numpy(X[:n])).numpy()
        assert np.abs(found - f.transform(X[:n])).max() < 1e-5


@pytest.mark.parametrize("normalize", [True, False])
def test_exported(f: EmbedFilter, X: np.ndarray, normalize: bool) -> None:
    module = FilterModule(f, normalize=normalize).eval()
    n = torch.export.Dim("n")
    program = torch.export.export(module, (torch.from_numpy(X[:5]),), dynamic_shapes=({0: n},))
    found = program.module()(torch.from_numpy(X)).numpy()
    assert np.abs(found - f.transform(X, normalize=normalize)).max() < 1e-5


def test_without_torch(edge: EmbedFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "embedfilter.integrations.torch")
    with pytest.raises(ImportError, match=r'pip install "embedfilter\[torch\]"'):
        edge.to_torch()
