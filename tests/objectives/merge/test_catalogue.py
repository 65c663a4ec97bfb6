"""The catalogue of methods is compared with mergekit's registry."""

import pytest
from mergekit import merge_methods
from mergekit.merge_methods import BasePolicy, MergeMethod, ParameterScope

from objectives.merge.catalogue import METHODS

REGISTERED = {method.spec.name: method for method in merge_methods.registered_methods()}
BY_MERGEKIT = [name for name, method in METHODS.items() if not method.native]


def test_the_catalogue_has_exactly_mergekits_methods() -> None:
    assert METHODS.keys() == REGISTERED.keys()


@pytest.mark.parametrize("name", BY_MERGEKIT)
def test_a_method_has_mergekits_parameters_with_its_defaults(name: str) -> None:
    method, spec = METHODS[name], REGISTERED[name].spec
    theirs = {p.name: p for p in spec.parameters if p.name != "int8_mask"}
    ours = {p.name for p in method.parameters}
    ours |= {"normalize"} if method.normalize is not None else set()
    ours |= {"lambda"} if method.has_lambda else set()
    assert ours == theirs.keys()
    if method.normalize is not None:
        assert theirs["normalize"].default is method.normalize
    for parameter in method.parameters:
        their = theirs[parameter.name]
        assert parameter.per_model == (their.scope != ParameterScope.SHARED)
        assert parameter.default == (None if their.required else their.default) or (
            parameter.name == "weight" and their.required
        )
        if parameter.default is not None:
            assert type(parameter.default) is their.value_type


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_accepts_the_same_models_as_in_mergekit(name: str) -> None:
    method, theirs = METHODS[name], REGISTERED[name]
    policy = theirs.spec.contract.base
    if name != "slerp":  # mergekit's base is the first of the two models there
        assert (
            method.base
            == {
                BasePolicy.REQUIRED: "needed",
                BasePolicy.OPTIONAL: "optional",
                BasePolicy.IGNORED: "unused",
            }[policy]
        )
        assert _takes(theirs, method.least, method.base == "needed")
    if method.most is not None:
        assert _takes(theirs, method.most, method.base == "needed")
        assert not _takes(theirs, method.most + 1, method.base == "needed")
    elif name != "slerp":
        assert _takes(theirs, 9, method.base == "needed")
    if name in ("nuslerp", "model_stock"):
        assert not _takes(theirs, method.least - 1, method.base == "needed")


def _takes(method: MergeMethod, count: int, with_base: bool) -> bool:
    models = [f"model {i}" for i in range(count)]
    try:
        method.validate_inputs(
            [*models, *(["base"] if with_base else [])], "base" if with_base else None
        )
    except ValueError:
        return False
    return True
