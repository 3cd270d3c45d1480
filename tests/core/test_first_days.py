"""What a model goes through in the first days with an optimizer: layers that come later, another dtype, wrong files."""

import re

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import closure_of, squares


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def train(model, optimizer, steps):
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


def test_layers_that_a_model_gets_later_are_found_by_their_names():
    """The model was given, so that its parameters have names without anybody having asked for them."""
    ours, theirs = network(), network()
    chain = tz.Modular(ours, tz.m.Adam(), tz.m.LR(1e-2))
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for model, optimizer in ((ours, chain), (theirs, reference)):
        train(model, optimizer, 3)
        model.append(nn.Linear(2, 2).double())
        with torch.no_grad():
            model[3].weight.copy_(torch.eye(2))
            model[3].bias.fill_(0.5)
        optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.1})
        train(model, optimizer, 5)
    assert chain.param_groups[1]["param_names"] == ["3.weight", "3.bias"]
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_a_group_without_names_among_named_ones_says_how_to_name_it():
    model, layer = network(), nn.Linear(2, 2)
    for params in (model, model.named_parameters()):
        optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(1e-2))
        with pytest.raises(ValueError, match=r"those of the new group have none.*layer\.named_parameters\(\)"):
            optimizer.add_param_group({"params": layer.parameters()})
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group({"params": layer.named_parameters()})
    optimizer = tz.Modular(model.parameters(), tz.m.Adam(), tz.m.LR(1e-2))
    with pytest.raises(ValueError, match=r"have none: give it layer\.parameters\(\)"):
        optimizer.add_param_group({"params": layer.named_parameters()})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (lambda a, b: [a, b], "Parameter 0 of the group is no tensor but a Linear"),
        (lambda a, b: [a], r"tz\.Modular\(model, \.\.\.\)"),
        (lambda a, b: [a.parameters(), b.parameters()], r"a generator.*\[\*a\.parameters\(\), \*b\.parameters\(\)\]"),
        (lambda a, b: [{"params": a}], r"not a Linear; give its parameters, \{'params': model\.parameters\(\)\}"),
        (lambda a, b: [{"params": nn.Sequential(a, b)}], "not a Sequential; give its parameters"),
        (lambda a, b: [{"params": [a, b]}], r"\[\{'params': a\.parameters\(\)\}, \{'params': b\.parameters\(\)\}\]"),
    ],
)
def test_models_in_a_list_say_how_their_parameters_are_given(params, text):
    with pytest.raises(TypeError, match=text):
        tz.Modular(params(nn.Linear(2, 2), nn.Linear(2, 2)), tz.m.Adam(), tz.m.LR(1e-2))


def test_a_model_that_gets_another_dtype_between_two_searches_goes_on():
    """Gradients that were remembered have the dtype of before, and are not given back to its parameters."""
    model, x = network(), torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    optimizer = tz.Modular(model, tz.m.LBFGS(), tz.m.StrongWolfe())

    def closure(backward=True):
        loss = (model(x.to(model[0].weight.dtype)) - 1).square().mean()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(4)]
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        losses += [float(optimizer.step(closure)) for _ in range(4)]
        assert all(p.grad.dtype is dtype for p in model.parameters())
    assert losses[-1] < 0.1 * losses[3] and losses[3] < losses[0]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (lambda own, model: None, TypeError, r"not a NoneType.*torch\.load"),
        (lambda own, model: {}, ValueError, "Its keys: none"),
        (lambda own, model: {"model": model.state_dict(), "optimizer": own}, ValueError, r"saved\['optimizer'\]"),
        (lambda own, model: model.state_dict(), ValueError, "Its keys: '0.weight', '0.bias'"),
        (lambda own, model: torch.optim.Adam(model.parameters()).state_dict(), ValueError, "load_torch_state"),
        (lambda own, model: torch.optim.SGD(model.parameters()).state_dict(), ValueError, "load_torch_state"),
    ],
)
def test_what_is_no_state_of_a_chain_is_refused_in_a_sentence(given, error, text):
    model = network()
    optimizer = tz.Modular(model, tz.m.Adam(), tz.m.LR(1e-2))
    train(model, optimizer, 2)
    before = {k: {n: torch.as_tensor(v).clone() for n, v in s.items()} for k, s in optimizer.state.items()}
    with pytest.raises(error, match=re.compile(text, re.S)):
        optimizer.load_state_dict(given(optimizer.state_dict(), model))
    for key, state in optimizer.state.items():
        assert all(torch.equal(torch.as_tensor(v), before[key][n]) for n, v in state.items())


TWICE = [
    [tz.m.Newton, tz.m.Backtracking],
    [lambda: tz.m.NystromPCG(sketch_size=2), tz.m.StrongWolfe],
    [tz.m.TrustCG],
    [tz.m.SophiaH, lambda: tz.m.LR(0.1)],
    [tz.m.LevenbergMarquardt],
]


@pytest.mark.parametrize("chain", TWICE, ids=["Newton", "NystromPCG", "TrustCG", "SophiaH", "LevenbergMarquardt"])
def test_a_closure_that_always_goes_backward_is_told_to_ask_first(chain):
    """torch's own advice, retain_graph=True, would hide the mistake."""
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], *(make() for make in chain))

    def residuals(backward=True):
        r = p**2 - 1
        optimizer.zero_grad()
        r.square().sum().backward()
        return r

    def closure(backward=True):
        loss = (p**4).sum()
        optimizer.zero_grad()
        loss.backward()
        return loss

    wrong = residuals if chain[0] is tz.m.LevenbergMarquardt else closure
    with pytest.raises(RuntimeError, match=r"freed the graph.*Call it only if backward is true"):
        optimizer.step(wrong)
    assert p.tolist() == [1.0, 2.0]


@pytest.mark.filterwarnings("ignore:The closure takes no `backward`")
def test_a_newton_method_says_what_its_closure_has_to_be():
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.Newton())

    def closure():
        optimizer.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    for wrong in (closure, lambda backward=True: (p**4).sum().detach(), lambda backward=True: (p**4).sum().item()):
        with pytest.raises(RuntimeError, match=r"takes the argument backward, calls loss\.backward\(\) only if it is"):
            optimizer.step(wrong)
        assert p.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["step", "rule", "reset"])
def test_a_state_does_not_take_the_name_of_a_method(name):
    body = {"rule": lambda self, u, ctx: u} | {name: tz.Slot()}
    with pytest.raises(TypeError, match=rf"Mine\.{name} cannot be a state.*such as {name}_ = Slot\(\)"):
        type("Mine", (tz.Transform,), body)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "returned None; it must return the step size, one number"),
        ("far", "returned 'far'"),
        (torch.ones(2), r"returned a tensor of shape \(2,\)"),
    ],
)
def test_a_search_that_returns_no_step_size_is_told_so(found, text):
    class Mine(tz.m.LineSearch):
        def search(self, update, var):
            return found

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = tz.Modular([p], Mine())
    with pytest.raises(TypeError, match=f"The search of Mine {text}"):
        optimizer.step(closure_of([p], squares))
    assert p.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("target", ["closure", "grad", "update"])
@pytest.mark.parametrize(
    ("found", "error", "text"),
    [
        (lambda params: [torch.zeros_like(p) for p in params], TypeError, "returned a list of 1.*return grads, loss"),
        (lambda params: None, TypeError, "returned a NoneType"),
        (lambda params: ([], None, None), TypeError, "gave a list of 0 as gradients"),
        (lambda params: ([torch.zeros(3)], None, None), ValueError, r"shape \(3,\).*shape \(2,\)"),
        (lambda params: ([torch.zeros(2).double()], None, None), ValueError, r"float64 for .* torch\.float32"),
    ],
)
def test_a_gradient_approximation_that_returns_something_else_is_told_so(found, error, text, target):
    class Mine(tz.m.GradApproximator):
        def approximate(self, closure, params, loss, var):
            return found(params)

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = tz.Modular([p], Mine(target=target), tz.m.LR(0.1))
    with pytest.raises(error, match=f"The approximate of Mine .*{text}"):
        optimizer.step(closure_of([p], squares))
    assert p.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("returned", [list, tuple])
def test_residuals_in_a_list_are_told_to_be_put_together(returned):
    p = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LevenbergMarquardt())
    with pytest.raises(ValueError, match=rf"returned a {returned.__name__} of 2. Put them together: torch\.cat"):
        optimizer.step(lambda backward=True: returned([p - 1, p**2 - 1]))
    assert p.tolist() == [2.0, 3.0]
    for _ in range(10):
        optimizer.step(lambda backward=True: torch.cat([p - 1, p**2 - 1]))
    assert (p - 1).abs().max() < 1e-10


@pytest.mark.parametrize("method", ["project", "unproject"])
@pytest.mark.parametrize(("found", "text"), [(lambda ts: None, "returned None"), (lambda ts: ts[0], "one tensor")])
def test_a_projection_that_returns_no_list_is_told_so(method, found, text):
    """Without an update from it the gradient would have gone on as it was."""

    class Mine(tz.m.Projection):
        def project(self, tensors, var, current):
            return found(tensors) if method == "project" else tensors

        def unproject(self, tensors, var, current):
            return found(tensors) if method == "unproject" else tensors

    p = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = tz.Modular([p], Mine(tz.m.Adam()), tz.m.LR(0.1))
    p.grad = torch.ones(2)
    with pytest.raises(TypeError, match=rf"The {method} of Mine .*{text}.*a list of tensors"):
        optimizer.step()
    assert p.tolist() == [1.0, 2.0]


def test_a_wrapped_optimizer_with_settings_of_torch_in_its_groups_loads_its_own_state():
    """Its keys are those by which a state of torch's is told."""
    states = []
    for _ in range(2):
        model = network()
        groups = [{"params": layer.parameters(), "maximize": False} for layer in (model[0], model[2])]
        optimizer = tz.Modular(groups, tz.m.Wrap(torch.optim.NAdam, lr=1e-2))
        if states:
            optimizer.load_state_dict(states[0])
            assert all(group["maximize"] is False for group in optimizer.param_groups)
            assert optimizer.current_step == 2
        else:
            train(model, optimizer, 2)
            states.append(optimizer.state_dict())
