"""Registers operations with torch, so that its compiler, its exporter and its autograd know them.

A differentiable one is two functions that autograd does not see, `fmlfast::<op>` and `fmlfast::<op>_backward`.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("fmlfast", "FRAGMENT")
# Private, but of what is public `register_autograd` costs twice as much, and `get_kernel` leaves out torch's modes.
_below_autograd = torch._C._AutoDispatchBelowAutograd
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)  # kernels count on dense rows


def register(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[..., list[Tensor]],
    fake: Callable[..., Any],
    outputs: Sequence[str],
    gradients_to: Sequence[str],
    fake_backward: Callable[..., list[Tensor]] | None = None,
) -> Callable[..., Any]:
    """Registers an operation, differentiable once, and returns what calls it.

    Results must be new tensors. Autocast is off inside.

    Args:
        name: of the operation.
        forward: computes it; its annotations are the operation's.
        backward: (wanted, gradients, tensors, settings) -> new tensors, dense: the gradients of those of `gradients_to`
            that are wanted. Parameters named grad_<output> are gradients of outputs, None where there is none and
            another output has one; the other outputs are constants. What is kept for it are the inputs and outputs that
            it has parameters of the same name for.
        fake: as `forward`, for tensors without memory: makes the results' shapes.
        outputs: names of the results.
        gradients_to: inputs that have gradients.
        fake_backward: as `backward`, for tensors without memory; by default gradients are like what they belong to.
    """
    inputs = list(inspect.signature(forward).parameters)
    names = list(inspect.signature(backward).parameters)[1:]
    hints = typing.get_type_hints(backward)
    known_names = [*inputs, *outputs]
    upstream = [outputs.index(n.removeprefix("grad_")) for n in names if n.startswith("grad_")]
    kept = names[len(upstream) :]
    tensors = [known_names.index(n) for n in kept if hints[n] in (Tensor, Tensor | None)]
    settings = [known_names.index(n) for n in kept if hints[n] not in (Tensor, Tensor | None)]
    places = [inputs.index(n) for n in gradients_to]
    constants = [i for i in range(len(outputs)) if i not in upstream]
    listed = typing.get_type_hints(forward)["return"] == list[Tensor]

    def like_inputs(wanted: list[bool], *arguments: Any) -> list[Tensor]:
        known = dict(zip(names, arguments, strict=True))
        return [torch.empty_like(known[n]) for n, needed in zip(gradients_to, wanted, strict=True) if needed]

    run = register_constant(name, forward, fake)
    run_backward = register_constant(f"{name}_backward", backward, fake_backward or like_inputs)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with _below_autograd():
                results = run(*arguments)
            known = (*arguments, *results) if isinstance(results, tuple) else (*arguments, results)
            ctx.save_for_backward(*[known[i] for i in tensors])
            ctx.settings = [known[i] for i in settings]
            ctx.set_materialize_grads(listed)
            ctx.mark_non_differentiable(*[results[i] for i in constants])
            return tuple(results) if listed else results

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            given = [list(gradients)] if listed else [gradients[i] for i in upstream]
            to_inputs: list[Tensor | None] = [None] * len(inputs)
            if all(gradient is None for gradient in given):
                return tuple(to_inputs)
            wanted = [ctx.needs_input_grad[place] for place in places]
            with torch.no_grad():  # also where a graph of the gradients is asked for: plain torch may write in place
                found = run_backward(wanted, *given, *ctx.saved_tensors, *ctx.settings)
            if torch.is_grad_enabled():
                found = _Refuse.apply(name, len(found), *found, *gradients, *ctx.saved_tensors)
            needed = (place for place, want in zip(places, wanted, strict=True) if want)
            for place, gradient in zip(needed, found, strict=True):
                to_inputs[place] = gradient
            return tuple(to_inputs)

    def differentiable(*arguments: Any) -> Any:
        varied = (arguments[place] for place in places)
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in varied):
            results = Differentiable.apply(*arguments)
            return list(results) if listed else results
        with _below_autograd():
            return run(*arguments)

    # Half of what torch.library.register_autograd adds to a call.
    _library.impl(name, differentiable, "Autograd")
    return run


class _Refuse(torch.autograd.Function):
    """Passes on gradients that have none of their own, of an operation that was given the other tensors, too."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Any) -> Any:
        ctx.name = name
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"{ctx.name} has no second derivatives: call autograd without create_graph=True")


def register_constant(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers an operation whose results have no gradient, and returns what calls it; see `register`."""
    _library.define(name + torch.library.infer_schema(function, mutates_args=()), tags=_TAGS)
    _library.impl(name, _without_autocast(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fmlfast::{name}", fake, lib=_library)
    return getattr(torch.ops.fmlfast, name).default


def pull_back(
    function: Callable[..., tuple[Any, Any]],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> tuple[Any, Callable[[Any], list[Tensor]], Any]:
    """Calls a plain function of tensors inside of an operation, where autograd does not see it.

    Returns the first of its two results, what makes gradients of the wanted inputs out of upstream ones of that, and
    the second (tensors), which is not differentiated.
    """

    def of_wanted(*varied: Tensor) -> tuple[Any, Any]:
        left = iter(varied)
        return function(*[next(left) if needed else x for x, needed in zip(inputs, wanted, strict=True)])

    chosen = [x.detach() for x, needed in zip(inputs, wanted, strict=True) if needed and x is not None]
    if not chosen:
        first, second = function(*inputs)
        return first, lambda _: [], second
    results: Any = torch.func.vjp(of_wanted, *chosen, has_aux=True)
    first, pull, second = results
    return first, lambda upstream: list(pull(upstream)), second


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps products inside of a function from being rounded."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return run(*arguments)
        return function(*arguments)

    return run
