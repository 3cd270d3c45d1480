"""What those who know scipy's ``minimize`` give to this one, or ask of its result, and what to write here instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.near import did_you_mean

#: Arguments that there are elsewhere, with what takes their place.
ARGUMENTS = {
    "args": "Give fun as a function of x alone: minimize(lambda x: fun(x, *args), x0).",
    "jac": (
        "Gradients come from autograd, so leave it out, and let fun return the value alone; method='fdm' takes finite "
        "differences, and a gradient of your own belongs in a torch.autograd.Function."
    ),
    "hess": "Hessians come from autograd, so leave it out; method='newton', 'newton-cg' or 'trust-cg' uses them.",
    "constraints": (
        "Only bounds= are kept. Write x as a function of free unknowns, or use "
        "tz.optim.wrappers.ScipyMinimize([x], constraints=...)."
    ),
}
ARGUMENTS["hessp"] = ARGUMENTS["hess"]
#: Other words for arguments of ``minimize``.
WORDS = {
    "max_iter": "maxiter",
    "maxfun": "maxfev",
    "max_nfev": "maxfev",
    "xatol": "xtol",
    "xrtol": "xtol",
    "fatol": "ftol",
    "verbose": "disp",
}
#: Attributes of results elsewhere, with where to find what they have.
RESULTS = {
    "grad": "The gradient is jac.",
    "hess": "Compute it at x: torch.func.hessian(fun)(result.x).",
    "hess_inv": "Compute it at x: torch.linalg.inv(torch.func.hessian(fun)(result.x)).",
    "nhev": "Hessians are not counted; products with one by finite differences are in nfev.",
    "allvecs": "Collect the points in the callback: callback=lambda result: points.append(result.x).",
}
#: The methods of scipy that have no counterpart by name.
METHODS = ("nelder-mead", "powell", "tnc", "cobyla", "cobyqa", "slsqp", "trust-constr", "trust-exact", "trust-krylov")


def refusal(given: Mapping[str, Any], known: Iterable[str]) -> str:
    """Why an argument is refused that ``minimize`` does not have, and what to write instead.

    Args:
        given: the arguments; the sentence is about the first one.
        known: the arguments that there are.
    """
    known = list(known)
    name, value = next(iter(given.items()))
    start = f"minimize takes no {name}=."
    if name == "options" and isinstance(value, Mapping):
        return f"minimize takes no options=: {_options(value, known)}"
    if name in ARGUMENTS:
        return f"{start} {ARGUMENTS[name]}"
    if name in WORDS:
        return f"{start} Here it is {WORDS[name]}=."
    return f"{start}{did_you_mean(name, known)} Its arguments are {', '.join(known)}."


def _options(options: Mapping[str, Any], known: list[str]) -> str:
    """How the options of scipy are said."""
    ours = {WORDS.get(str(name), str(name)): value for name, value in options.items()}
    here = {name: value for name, value in ours.items() if name in known}
    said = ", ".join(f"{name}={value!r}" for name, value in here.items())
    text = f"write what is in it as arguments, minimize(fun, x0, {said or 'maxiter=...'})."
    rest = [name for name in options if WORDS.get(str(name), str(name)) not in here]
    if rest:
        text += (
            f" There is no {' and no '.join(map(repr, rest))}; the settings of a method are those of its modules, such "
            "as [tz.m.LBFGS(history_size=20), tz.m.StrongWolfe(c2=0.5)]."
        )
    return text


def absent(name: str, known: Iterable[str]) -> str:
    """What there is in the place of something that a result does not have.

    Args:
        name: what was asked for.
        known: what it has.
    """
    known = list(known)
    hint = RESULTS.get(name) or f"{did_you_mean(name, known).strip()} It has {', '.join(known)}.".strip()
    return f"The result of minimize has no {name!r}. {hint}"


__all__ = ["METHODS", "absent", "refusal"]
