"""Registers operations with torch, so that its compiler, its exporter and its autograd know them.

Each is two functions that autograd does not see, `fmlfast::<op>` and `fmlfast::<op>_backward`.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("fmlfast", "FRAGMENT")
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
            that are wanted. Parameters named grad_<output> are gradients of outputs; what is kept for it are the inputs
            and outputs that it has parameters of the same name for.
        fake: as `forward`, for tensors without memory: makes the results' shapes.
        outputs: names of the results.
        gradients_to: inputs that have gradients.
        fake_backward: as `backward`, for tensors without memory; by default gradients are like what they belong to.
    """
    inputs = list(inspect.signature(forward).parameters)
    names = list(inspect.signature(backward).parameters)[1:]
    hints = typing.get_type_hints(backward)
    upstream = [outputs.index(n.removeprefix("grad_")) for n in names if n.startswith("grad_")]
    kept = names[len(upstream) :]
    tensors = [n for n in kept if hints[n] in (Tensor, Tensor | None)]
    settings = [n for n in kept if n not in tensors]
    places = [inputs.index(n) for n in gradients_to]

    def like_inputs(wanted: list[bool], *arguments: Any) -> list[Tensor]:
        known = dict(zip(names, arguments, strict=True))
        return [torch.empty_like(known[n]) for n, needed in zip(gradients_to, wanted, strict=True) if needed]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = output if isinstance(output, tuple) else (output,)
        known = dict(zip(known_names, (*inputs, *results), strict=True))
        ctx.save_for_backward(*[known[n] for n in tensors])
        ctx.settings = [known[n] for n in settings]

    def differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [ctx.needs_input_grad[place] for place in places]
        found = iter(run_backward(wanted, *[gradients[i] for i in upstream], *ctx.saved_tensors, *ctx.settings))
        to_inputs: list[Tensor | None] = [None] * len(inputs)
        for place, needed in zip(places, wanted, strict=True):
            if needed:
                to_inputs[place] = next(found)
        return tuple(to_inputs)

    def refuse(ctx: Any, *_: Any) -> None:
        raise RuntimeError(f"{name} has no second derivatives: call autograd without create_graph=True")

    known_names = [*inputs, *outputs]
    run = _define(name, forward, fake)
    run_backward = _define(f"{name}_backward", backward, fake_backward or like_inputs)
    torch.library.register_autograd(f"fmlfast::{name}", differentiate, setup_context=setup_context, lib=_library)
    torch.library.register_autograd(f"fmlfast::{name}_backward", refuse, lib=_library)
    return run


def gradients_of(
    function: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    upstream: Tensor | tuple[Tensor, ...],
) -> list[Tensor]:
    """Differentiates a plain function of tensors inside of an operation, where autograd does not see it."""

    def of_wanted(*varied: Tensor) -> Any:
        left = iter(varied)
        return function(*[next(left) if needed else x for x, needed in zip(inputs, wanted, strict=True)])

    chosen = [x.detach() for x, needed in zip(inputs, wanted, strict=True) if needed and x is not None]
    return list(torch.func.vjp(of_wanted, *chosen)[1](upstream)) if chosen else []


def _define(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    _library.define(name + torch.library.infer_schema(function, mutates_args=()), tags=_TAGS)
    _library.impl(name, _without_autocast(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fmlfast::{name}", fake, lib=_library)
    return getattr(torch.ops.fmlfast, name).default


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
