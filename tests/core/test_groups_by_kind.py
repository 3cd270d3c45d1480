"""Parameter groups by kind and by name."""

import copy

import pytest
import torch
from torch import nn

import torchzero_core as tz
from torchzero_core.core.kinds import KINDS, kinds


class Custom(nn.Module):
    """A normalisation of somebody's own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class RMSNormOfOurs(Custom):
    pass


def transformer():
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "attn": nn.MultiheadAttention(4, 2),
            "norm": nn.LayerNorm(4),
            "own": RMSNormOfOurs(),
            "mlp": nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
            "batch": nn.BatchNorm1d(4),
            "rnn": nn.GRU(4, 4),
            "lm_head": nn.Linear(4, 9),
        }
    )


def names_in(groups):
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


def test_kinds():
    assert kinds(transformer()) == {
        "norms": ["norm.weight", "norm.bias", "own.scale", "batch.weight", "batch.bias"],
        "biases": [
            "attn.in_proj_bias", "attn.out_proj.bias", "norm.bias", "mlp.0.bias", "mlp.2.bias", "batch.bias",
            "rnn.bias_ih_l0", "rnn.bias_hh_l0", "lm_head.bias",
        ],
        "embeddings": ["embed.weight"],
        "head": ["lm_head.weight", "lm_head.bias"],
        "hidden_matrices": [
            "attn.in_proj_weight", "attn.out_proj.weight", "mlp.0.weight", "mlp.2.weight", "rnn.weight_ih_l0",
            "rnn.weight_hh_l0",
        ],
    }  # fmt: skip


def test_there_is_one_definition_of_hidden_matrices():
    model = transformer()
    accepts = tz.m.hidden_matrices(model)
    assert [n for n, p in model.named_parameters() if accepts(p)] == kinds(model)["hidden_matrices"]


def test_a_head_that_shares_its_weight_is_an_embedding_too():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    found = kinds(model)
    assert found["embeddings"] == found["head"] == ["0.weight"] and not found["hidden_matrices"]


def test_no_decay_on_norms_and_biases_is_two_lines():
    model = transformer()
    groups = tz.groups(model, {"norms": {"weight_decay": 0}, "biases": {"weight_decay": 0}})
    assert [group["name"] for group in groups] == ["default", "norms+biases"]
    assert all(p.ndim >= 2 for _, p in groups[0]["params"])
    assert "weight_decay" not in groups[0] and groups[1]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer = tz.Modular(groups, *tz.recipes.adamw(lr=0.1, weight_decay=0.5))
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
        kept = 1.0 if p.ndim < 2 else 0.95
        torch.testing.assert_close(p, kept * q, msg=name)


def test_they_serve_any_optimizer_of_torch():
    model = transformer()
    torch.optim.AdamW(tz.groups(model, {"norms": {"weight_decay": 0}}))


def test_a_later_key_wins_and_the_others_stay():
    groups = tz.groups(
        transformer(), {"*": {"weight_decay": 0.1}, "mlp.*": {"lr": 0.5}, "mlp.0.weight": {"weight_decay": 0.3}}
    )
    values = {name: (g.get("lr"), g["weight_decay"]) for g in groups for name, _ in g["params"]}
    assert values["mlp.0.weight"] == (0.5, 0.3)
    assert values["mlp.2.weight"] == (0.5, 0.1)
    assert values["embed.weight"] == (None, 0.1)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("re:^mlp\\.[02]\\.weight$", ["mlp.0.weight", "mlp.2.weight"]),
        ("re:head", ["lm_head.weight", "lm_head.bias"]),
        ("mlp.?.bias", ["mlp.0.bias", "mlp.2.bias"]),
        ("*norm*", ["norm.weight", "norm.bias"]),
        ("head", ["lm_head.weight", "lm_head.bias"]),
    ],
)
def test_patterns(key, names):
    assert names_in(tz.groups(transformer(), {key: {"lr": 1.0}}))[key] == names


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nroms", r"groups: no parameter has a name like 'nroms'\. Did you mean the kind 'norms'\?"),
        ("0.*", r"Did you mean '\*\.0\.\*', which fits 'mlp\.0\.weight'\?"),
        ("mlp", r"Did you mean 'mlp\.\*', which fits 'mlp\.0\.weight'\?"),
        ("mpl.0.weight", r"Did you mean mlp\.0\.weight"),
        ("re:[", r"is no regular expression"),
        ("zzzz", r"There are embed\.weight, .*; and the kinds norms, biases"),
    ],
)
def test_what_fits_nothing_is_named_with_what_is_near(key, message):
    with pytest.raises(ValueError, match=message):
        tz.groups(transformer(), {key: {"lr": 1.0}})


def test_a_kind_that_the_model_does_not_have():
    with pytest.raises(ValueError, match="the model has no norms; it has biases, head, hidden_matrices"):
        tz.groups(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), {"norms": {"lr": 1.0}})


@pytest.mark.parametrize("settings", [["norms"], {"norms": 0}, {"norms": {"params": []}}])
def test_what_is_no_settings(settings):
    with pytest.raises(TypeError, match="groups"):
        tz.groups(transformer(), settings)


def test_some_parameters_alone():
    model = transformer()
    groups = tz.groups(model, {"biases": {"lr": 1.0}}, model["mlp"].parameters())
    assert names_in(groups) == {"default": ["mlp.0.weight", "mlp.2.weight"], "biases": ["mlp.0.bias", "mlp.2.bias"]}
    with pytest.raises(ValueError, match="1 of the parameters do not belong"):
        tz.groups(model, {}, [nn.Parameter(torch.ones(1))])


def test_names_alone():
    model = transformer()
    groups = tz.groups(model.named_parameters(), {"biases": {"lr": 1.0}})
    assert names_in(groups)["biases"] == kinds(model)["biases"]
    with pytest.raises(ValueError, match="which parameters are norms only the model says"):
        tz.groups(model.named_parameters(), {"norms": {"lr": 1.0}})


def test_the_choice_prints_as_a_table():
    lines = str(tz.groups(transformer(), {"head": {"lr": 0.1}})).splitlines()
    assert lines[1].split() == ["head", "2", "tensors", "45", "parameters", "lr=0.1", "lm_head.weight,", "lm_head.bias"]
    assert lines[0].endswith(" more")


@pytest.mark.parametrize(("words", "chosen"), [*((kind, kind) for kind in KINDS), ("mlp.*", None)])
def test_split_takes_them_too(words, chosen):
    model = transformer()
    split = tz.m.Split(words, tz.m.Sign(), None)
    optimizer = tz.Modular(model, split)
    expected = kinds(model)[chosen] if chosen else [n for n, _ in model.named_parameters() if n.startswith("mlp.")]
    assert split.choice()["true"] == expected
    assert f"filter={words}" in repr(optimizer)


def test_split_names_a_pattern_that_fits_nothing():
    split = tz.m.Split("nroms", tz.m.Sign(), None)
    optimizer = tz.Modular(transformer(), split)
    assert optimizer
    with pytest.raises(ValueError, match=r"Split\(filter='nroms'\): .* Did you mean the kind 'norms'\?"):
        split.choice()
