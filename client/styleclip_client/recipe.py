"""Recipes: edits as JSON, to be shared and applied to other photos.

A recipe has texts and numbers only, never an image or a latent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import InvalidRecipe

_KIND, _VERSION = "styleclip-recipe", 1


@dataclass(frozen=True)
class Step:
    """One edit of a recipe; it is applied if it is `on`."""

    edit: Edit
    on: bool = True


@dataclass(frozen=True)
class Recipe:
    """Edits to sum, and the domain and generator version that they are for.

    α and β depend on both: with others the same recipe changes more or less.
    """

    domain: str
    model_version: str
    steps: tuple[Step, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that are on."""
        return tuple(step.edit for step in self.steps if step.on)

    def to_json(self) -> str:
        """Return the recipe as indented JSON."""
        content = {
            "kind": _KIND,
            "version": _VERSION,
            "domain": self.domain,
            "model_version": self.model_version,
            "edits": [{**_values(step.edit), "on": step.on} for step in self.steps],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read a recipe that `to_json` wrote.

        Raises:
            InvalidRecipe: it is not a recipe; the message says why.
            InvalidInput: an edit is out of bounds, as `Edit` raises it.
        """
        if len(text) > limits.RECIPE_BYTES:
            raise InvalidRecipe(
                f"the recipe has {len(text)} bytes, the limit is {limits.RECIPE_BYTES}: "
                "a recipe is a short JSON text"
            )
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRecipe("the recipe is not JSON text") from error
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise InvalidRecipe(f'the JSON text is not a recipe: "kind": "{_KIND}" is expected')
        if content.get("version") != _VERSION:
            raise InvalidRecipe(
                f"the recipe has version {content.get('version')!r}, {_VERSION} is expected: "
                "use a newer client"
            )
        entries = content.get("edits")
        if not isinstance(entries, list) or not 1 <= len(entries) <= limits.EDITS:
            raise InvalidRecipe(f"the recipe needs 1 to {limits.EDITS} edits")
        return cls(
            domain=_text(content, "domain"),
            model_version=_text(content, "model_version"),
            steps=tuple(_step(entry) for entry in entries),
        )


def _values(edit: Edit) -> dict[str, str | float]:
    if edit.direction:
        return {"direction": edit.direction, "strength": edit.strength}
    return {
        "neutral": edit.neutral,
        "target": edit.target,
        "strength": edit.strength,
        "threshold": edit.threshold,
    }


def _step(entry: Any) -> Step:
    if not isinstance(entry, dict):
        raise InvalidRecipe("an edit of the recipe is not a JSON object")
    on = entry.get("on", True)
    if not isinstance(on, bool):
        raise InvalidRecipe('"on" of an edit must be true or false')
    if "direction" in entry:
        direction = _text(entry, "direction")
        return Step(Edit(direction=direction, strength=_number(entry, "strength")), on)
    edit = Edit(
        _text(entry, "neutral"),
        _text(entry, "target"),
        _number(entry, "strength"),
        _number(entry, "threshold"),
    )
    return Step(edit, on)


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or len(value) > limits.TEXT_CHARACTERS:
        raise InvalidRecipe(
            f'"{name}" of the recipe must be a text of at most {limits.TEXT_CHARACTERS} characters'
        )
    return value


def _number(content: dict[str, Any], name: str) -> float:
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRecipe(f'"{name}" of an edit must be a number')
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidRecipe(f'"{name}" of an edit is too large') from error
