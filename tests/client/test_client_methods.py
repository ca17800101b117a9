"""Both clients have the same methods with the same parameters."""

import inspect

import pytest

from styleclip_client import AsyncClient, Client


def public_methods(cls):
    return {name for name in vars(cls) if not name.startswith("_")}


def test_both_clients_have_the_same_methods():
    assert public_methods(Client) == public_methods(AsyncClient)


@pytest.mark.parametrize("name", sorted(public_methods(Client)))
def test_a_method_has_the_same_parameters_in_both_clients_and_is_documented(name):
    method, other = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.signature(method).parameters == inspect.signature(other).parameters
    assert method.__doc__ and other.__doc__
    assert inspect.iscoroutinefunction(other) or name == "edit_many"
