"""The state of one browser session: photo, edits, history. Nothing of it is on disk.

Streamlit forgets a widget's value when the widget is not drawn, so the values live here and
`EditRow.bind` gives them to the widgets.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from cache import SessionCache
from divider import Comparison
from error_messages import escape_markdown
from photos import Photo
from server_calls import ServerSession

from styleclip_client import Domain, Edit, Inverted
from styleclip_client.recipe import Recipe, Step
from styleclip_contract import limits

_HISTORY_ENTRIES = 24
_HISTORY_PHOTO_BYTES = 64 * 2**20
_SLIDER_STRENGTH = 10.0  # as in StyleCLIP


@dataclass
class EditRow:
    """One edit as the widgets show it; its texts may still be missing."""

    id: int
    neutral: str
    target: str
    strength: float
    threshold: float
    on: bool = True
    _replaced: dict[str, int] = field(default_factory=dict)  # attribute -> how often, in its key

    @property
    def is_complete(self) -> bool:
        return bool(self.target.strip())

    def bind(self, name: str) -> dict[str, Any]:
        """Return the key and the initial value of the widget for the attribute `name`.

        Not through `st.session_state`: a run that is interrupted before the browser has the new
        widget would lose the value, and the widget would start at its lowest.
        """
        return {"key": self.key(name), "value": getattr(self, name)}

    def key(self, name: str) -> str:
        """Return the key of the widget for the attribute `name`."""
        return f"{name}-{self.id}-{self._replaced.get(name, 0)}"

    def change_target(self, target: str, domain: Domain) -> None:
        """Set the target; values that are still the defaults of the old one become the new one's.

        Their widgets are replaced, since a widget on the page cannot be moved.
        """
        old, new = domain.defaults_for(self.target)._asdict(), domain.defaults_for(target)._asdict()
        self.target = target
        for name, value in new.items():
            if old[name] != value and getattr(self, name) == old[name]:
                setattr(self, name, value)
                self._replaced[name] = self._replaced.get(name, 0) + 1

    def to_edit(self) -> Edit:
        """Return the edit. Raises a StyleclipError for texts that cannot be used."""
        return Edit(self.neutral, self.target, self.strength, self.threshold)


@dataclass(frozen=True)
class HistoryEntry:
    """A result to go back to; `thumbnail` is a small JPEG."""

    recipe: Recipe
    photo: Photo
    thumbnail: bytes


@dataclass(frozen=True)
class RenderedGif:
    """A GIF and what it was rendered from: the face's digest and the edits."""

    source: tuple[bytes, tuple[Edit, ...]]
    data: bytes


@dataclass
class Session:
    """The state of one browser session."""

    server: ServerSession
    cache: SessionCache
    # The server's last status.
    server_ready: bool = False
    domain: Domain | None = None
    model_version: str = ""
    status_time: float = -math.inf  # time.monotonic() of the last status call
    retry: bool = False  # a call failed because the server was unavailable
    # What is edited.
    photo: Photo | None = None
    inverted: Inverted | None = None  # the face of `photo`, as it is edited with `fidelity`
    fidelity: str = ""  # of the edits
    rows: list[EditRow] = field(default_factory=list)
    directions: dict[str, float] = field(default_factory=dict)  # name -> strength; 0: not applied
    directions_id: int = 0  # of their sliders: a widget on the page cannot be moved, only replaced
    # Results.
    comparison: Comparison | None = None  # the last before and after
    gif: RenderedGif | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    pinned: bool = False  # the next result does not replace the newest entry of the history
    notice: str = ""  # Markdown, about the recipe that was loaded
    live_id: str = field(default_factory=secrets.token_urlsafe)  # in `live_edits`
    handled_files: dict[str, str] = field(default_factory=dict)  # uploader -> id of its last file
    _last_row_id: int = 0

    def add_row(self, edit: Edit | None = None, *, on: bool = True) -> None:
        """Append an edit, or an empty row with the domain's defaults."""
        assert self.domain
        self._last_row_id += 1
        row = EditRow(
            id=self._last_row_id,
            neutral=edit.neutral if edit else self.domain.neutral,
            target=edit.target if edit else "",
            strength=float(edit.strength if edit else self.domain.strength),
            threshold=float(edit.threshold if edit else self.domain.threshold),
            on=on,
        )
        self.rows.append(row)

    def remove_row(self, row_id: int) -> None:
        self.rows = [row for row in self.rows if row.id != row_id]
        if not self.rows:
            self.add_row()

    def replace_last_row(self, edit: Edit) -> None:
        self.rows = self.rows[:-1]
        self.add_row(edit)

    def active_edits(self) -> list[Edit]:
        """Return the edits that are on and complete. Raises what is wrong with their texts."""
        edits = [row.to_edit() for row in self.rows if row.on and row.is_complete]
        return edits + self._named_edits()

    def direction_key(self, name: str) -> str:
        """Return the key of the slider of a direction."""
        return f"direction-{name}-{self.directions_id}"

    def _named_edits(self) -> list[Edit]:
        """Return an edit for each direction that moves."""
        assert self.domain
        return [
            direction.edit(strength)
            for direction in self.domain.directions
            if (strength := self.directions.get(direction.name, 0.0))
        ]

    def _set_directions(self, strengths: dict[str, float]) -> None:
        """Move the sliders of all directions; those that are not given go to 0."""
        assert self.domain
        self.directions = {}
        for direction in self.domain.directions:
            strength = strengths.get(direction.name, 0.0)
            strength = max(min(direction.low, 0.0), min(strength, max(direction.high, 0.0)))
            self.directions[direction.name] = strength
        self.directions_id += 1

    def to_recipe(self) -> Recipe | None:
        """Return the complete rows as a recipe, or None without any."""
        assert self.domain
        steps = [Step(row.to_edit(), row.on) for row in self.rows if row.is_complete]
        steps += map(Step, self._named_edits())
        return Recipe(self.domain.name, self.model_version, tuple(steps)) if steps else None

    def load_recipe(self, recipe: Recipe) -> None:
        """Replace all edits by the recipe's."""
        self.rows = []
        strengths: dict[str, float] = {}
        for step in recipe.steps:
            if not step.edit.direction:
                self.add_row(step.edit, on=step.on)
            elif step.on:
                strengths[step.edit.direction] = step.edit.strength
        if not self.rows:
            self.add_row()
        self._set_directions(strengths)
        self.notice = ""
        if self.domain and recipe.domain != self.domain.name:
            self.notice = (
                f"This recipe was created with “{escape_markdown(recipe.domain)}”; the server runs "
                f"“{escape_markdown(self.domain.name)}”. The same strengths may have a "
                "different effect here."
            )
        elif recipe.model_version != self.model_version:
            self.notice = (
                f"This recipe was created with version {escape_markdown(recipe.model_version)} of "
                f"the model; the server has version {self.model_version}. The result may differ "
                "slightly."
            )

    def select_photo(self, photo: Photo) -> None:
        """Edit another photo, or another face of the same photo."""
        self.photo = photo

    def record_result(self, recipe: Recipe, thumbnail: bytes) -> None:
        """Add a result to the history; while only numbers change, it replaces the newest entry."""
        assert self.photo
        new = HistoryEntry(recipe, self.photo, thumbnail)
        if any((entry.recipe, entry.photo) == (recipe, self.photo) for entry in self.history):
            return
        if self.history and not self.pinned and _texts(self.history[-1]) == _texts(new):
            self.history.pop()
        self.pinned = False
        self.history = [*self.history[1 - _HISTORY_ENTRIES :], new]
        while _photo_bytes(self.history) > _HISTORY_PHOTO_BYTES and len(self.history) > 1:
            self.history.pop(0)

    def restore(self, entry: HistoryEntry) -> None:
        """Go back to an entry's photo and edits."""
        self.select_photo(entry.photo)
        self.load_recipe(entry.recipe)


def _texts(entry: HistoryEntry) -> tuple[Photo, list[tuple[str, str, bool]]]:
    steps = entry.recipe.steps
    return entry.photo, [(step.edit.neutral, step.edit.label, step.on) for step in steps]


def _photo_bytes(entries: list[HistoryEntry]) -> int:
    return sum(len(data) for data in {entry.photo.data for entry in entries})


def get_session(address: str) -> Session:
    """Return the browser session's state, created at the first call."""
    if "session" not in st.session_state:
        cache = SessionCache()
        st.session_state.session = Session(ServerSession(address, cache), cache)
    session: Session = st.session_state.session
    return session


def strength_bounds(strength: float) -> tuple[float, float]:
    """Return the ends of the strength slider: ±10, or as far as `strength` needs."""
    end = float(min(limits.STRENGTH, max(_SLIDER_STRENGTH, math.ceil(abs(strength)))))
    return -end, end
