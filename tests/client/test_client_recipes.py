"""Recipes are read as they were written, and anything else is refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styleclip_client import Edit
from styleclip_client.recipe import Recipe, Step
from styleclip_contract import errors, limits

SMILE = Edit("a face", "a smiling face", 3.5, 0.12)
BEARD = Edit("a face", "a face with a bärd", -2.0, 0.2)
RECIPE = Recipe("avatars", "1", (Step(SMILE), Step(BEARD, on=False)))


def test_a_recipe_round_trips():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    assert Recipe.from_json(RECIPE.to_json().encode()) == RECIPE
    assert RECIPE.edits == (SMILE,)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_text_that_is_not_a_recipe_raises_a_named_error(text):
    with pytest.raises(errors.InvalidRecipe):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kind": "something-else"}, errors.InvalidRecipe),
        ({"version": 2}, errors.InvalidRecipe),
        ({"domain": 3}, errors.InvalidRecipe),
        ({"edits": []}, errors.InvalidRecipe),
        ({"edits": [1]}, errors.InvalidRecipe),
        ({"edits": [{"neutral": "a", "target": "b", "strength": "1", "threshold": 0}]},
         errors.InvalidRecipe),
        ({"edits": [{"neutral": "a", "target": "b", "strength": 10**400, "threshold": 0}]},
         errors.InvalidRecipe),
        ({"edits": [{"neutral": "a", "target": "b", "strength": float("nan"), "threshold": 0}]},
         errors.InvalidStrength),
        ({"edits": [{"neutral": "a", "target": "b", "strength": 1, "threshold": 7}]},
         errors.InvalidThreshold),
        ({"edits": [{"neutral": "a", "target": " ", "strength": 1, "threshold": 0}]},
         errors.EmptyText),
    ],
)  # fmt: skip
def test_each_invalid_field_of_a_recipe_has_its_error(change, error):
    with pytest.raises(error):
        Recipe.from_json(json.dumps(json.loads(RECIPE.to_json()) | change))


def test_an_oversized_recipe_is_not_parsed():
    with pytest.raises(errors.InvalidRecipe, match="limit"):
        Recipe.from_json(" " * (limits.RECIPE_BYTES + 1))


def test_a_deeply_nested_recipe_is_refused():
    with pytest.raises(errors.InvalidRecipe):
        Recipe.from_json("[" * 60_000)


def test_a_recipe_may_have_named_directions_beside_texts():
    named = Edit(direction="age", strength=-2.5)
    recipe = Recipe("avatars", "1", (Step(SMILE), Step(named), Step(named, on=False)))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["edits"][1] == {
        "direction": "age",
        "strength": -2.5,
        "on": True,
    }
    with pytest.raises(errors.InvalidStrength):
        Recipe.from_json(recipe.to_json().replace("-2.5", "1e9"))
