"""What one session holds: the picture, the stack of edits, the history. Nothing is on disk.

Streamlit forgets a widget's value once the widget is not drawn, so the values live here and the
widgets are filled from them (`widget`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from divider import Pair
from server_calls import Link, Photo, plain

from styleclip_client import Domain, Edit, Inverted
from styleclip_client.recipe import Recipe, Step
from styleclip_contract import limits

HISTORY = 24  # entries; older ones go
HISTORY_BYTES = 64 * 2**20  # of the photos that they hold


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
class Entry:
    """A moment of the session to go back to; `thumbnail` is a small JPEG."""

    recipe: Recipe
    photo: Photo
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
    looked: float = -60.0  # when the server was asked how it is, time.monotonic()
    failed: bool = False  # a call found no server: try again when one answers
    shown: Pair | None = None  # the last before and after
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
                f"This recipe was made with “{plain(recipe.domain)}”; the server draws "
                f"“{plain(self.domain.name)}”. The same numbers may change more or less here."
            )
        elif recipe.model_version != self.version:
            self.notice = (
                f"This recipe was made with version {plain(recipe.model_version)} of the model; "
                f"the server has version {self.version}. The result may differ a little."
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
        assert self.photo
        new = Entry(recipe, self.photo, thumbnail)
        if any(_same(entry, new) for entry in self.history):
            return
        if self.history and not self.kept and _texts(self.history[-1]) == _texts(new):
            self.history.pop()
        self.kept = False
        self.history = [*self.history[1 - HISTORY :], new]
        while _photo_bytes(self.history) > HISTORY_BYTES and len(self.history) > 1:
            self.history.pop(0)

    def go_back(self, entry: Entry) -> None:
        """Take an entry's picture and edits."""
        self.take(entry.photo)
        self.apply(entry.recipe)

    def take(self, photo: Photo) -> None:
        """Edit another picture, or read it another way."""
        self.photo = photo
        st.session_state.align = photo.align


def _same(one: Entry, other: Entry) -> bool:
    return (one.recipe, one.photo) == (other.recipe, other.photo)


def _texts(entry: Entry) -> tuple[Photo, list[tuple[str, str, bool]]]:
    steps = entry.recipe.steps
    return entry.photo, [(step.edit.neutral, step.edit.target, step.on) for step in steps]


def _photo_bytes(entries: list[Entry]) -> int:
    return sum(len(data) for data in {entry.photo.data for entry in entries})


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
