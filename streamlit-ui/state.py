"""What one session holds: the picture, the stack of edits, the history. Nothing is on disk.

Streamlit forgets a widget's value once the widget is not drawn, so the values live here and the
widgets are filled from them (`widget`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from link import Link
from styleclip_client import Domain, Edit, Inverted, limits
from styleclip_client.recipe import Recipe, Step

HISTORY = 24  # entries; older ones go


@dataclass
class Row:
    """One edit of the stack as the widgets show it; it may still be incomplete."""

    id: int
    neutral: str
    target: str
    strength: float
    threshold: float
    on: bool = True

    @property
    def complete(self) -> bool:
        return bool(self.target.strip())

    def edit(self) -> Edit:
        return Edit(self.neutral, self.target, self.strength, self.threshold)


@dataclass(frozen=True)
class Photo:
    """The chosen picture: encoded as it came, how to read it, and a title for people."""

    data: bytes
    title: str
    align: bool
    face: int = -1


@dataclass(frozen=True)
class Entry:
    """A moment of the session to go back to; `thumbnail` is a small JPEG."""

    recipe: Recipe
    thumbnail: bytes


@dataclass
class Page:
    """One session. `domain` and `version` are those of the last answer of the server."""

    link: Link
    photo: Photo | None = None
    inverted: Inverted | None = None
    rows: list[Row] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    kept: bool = False  # the newest entry stays as it is
    domain: Domain | None = None
    version: str = ""
    up: bool = False
    failed: bool = False  # a call found no server: try again when one answers
    shown: tuple[bytes, bytes, float] | None = None  # the last before, after, width/height
    answer: bytes = b""  # the edited picture in the chosen format
    gif: tuple[Any, bytes] | None = None
    notice: str = ""
    applied: dict[str, str] = field(default_factory=dict)  # uploads that were taken over
    _next: int = 0

    def add(self, edit: Edit | None = None, *, on: bool = True) -> None:
        """Put an edit on the stack; without one, an empty row with the domain's defaults."""
        assert self.domain
        self._next += 1
        row = Row(
            self._next, self.domain.neutral, "", self.domain.strength, self.domain.threshold, on
        )
        if edit:
            row.neutral, row.target = edit.neutral, edit.target
            row.strength, row.threshold = edit.strength, edit.threshold
        self.rows.append(row)

    def remove(self, row_id: int) -> None:
        self.rows = [row for row in self.rows if row.id != row_id]
        if not self.rows:
            self.add()

    def fill(self, edit: Edit) -> None:
        """Put `edit` where the last row is."""
        self.rows = self.rows[:-1]
        self.add(edit)

    def apply(self, recipe: Recipe) -> None:
        """Take the recipe's edits in place of the stack."""
        self.rows = []
        for step in recipe.steps:
            self.add(step.edit, on=step.on)
        self.notice = ""
        if self.domain and recipe.domain != self.domain.name:
            self.notice = (
                f"This recipe was made with “{recipe.domain}”; the server draws "
                f"“{self.domain.name}”. The same numbers may change more or less here."
            )
        elif recipe.model_version != self.version:
            self.notice = (
                f"This recipe was made with version {recipe.model_version} of the model; the "
                f"server has version {self.version}. The result may differ a little."
            )

    def edits(self) -> list[Edit]:
        """The edits that are on and complete. Raises what is wrong with their texts."""
        return [row.edit() for row in self.rows if row.on and row.complete]

    def recipe(self) -> Recipe | None:
        """The stack as a recipe; None while no row is complete."""
        assert self.domain
        steps = tuple(Step(row.edit(), row.on) for row in self.rows if row.complete)
        return Recipe(self.domain.name, self.version, steps) if steps else None

    def remember(self, recipe: Recipe, thumbnail: bytes) -> None:
        """Note a result; while only numbers move, the newest entry follows them."""
        if any(entry.recipe == recipe for entry in self.history):
            return
        if self.history and not self.kept and _texts(self.history[-1].recipe) == _texts(recipe):
            self.history.pop()
        self.kept = False
        self.history = [*self.history[1 - HISTORY :], Entry(recipe, thumbnail)]


def _texts(recipe: Recipe) -> list[tuple[str, str, bool]]:
    return [(step.edit.neutral, step.edit.target, step.on) for step in recipe.steps]


def page(address: str) -> Page:
    """This session's state, made at the first call."""
    if "page" not in st.session_state:
        st.session_state.page = Page(Link(address))
    held: Page = st.session_state.page
    return held


def widget(row: Row, name: str) -> str:
    """The key of the widget for `row.name`, filled from the row when it is drawn anew."""
    key = f"{name}-{row.id}"
    if key not in st.session_state:
        st.session_state[key] = getattr(row, name)
    return key


def label(edit: Edit) -> str:
    """An edit in one short line."""
    return f"{edit.target}, α {edit.strength:g}, β {edit.threshold:g}"


def strength_bounds(value: float) -> tuple[float, float]:
    """The ends of the strength slider: StyleCLIP's ±10 unless the value is beyond."""
    end = float(min(limits.STRENGTH, max(10.0, math.ceil(abs(value)))))
    return -end, end
