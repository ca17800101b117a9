"""The edits of a command line: presets, texts and numbers, or a recipe."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from styleclip_client.address import DEFAULT_URL
from styleclip_client.commands.options import Command, add_options
from styleclip_client.connection_options import ConnectionOptions
from styleclip_client.recipe import Recipe
from styleclip_contract import limits
from styleclip_contract.domain import Domain
from styleclip_contract.edit_fields import EditFields
from styleclip_contract.edits import Edit
from styleclip_contract.errors import EditsMismatch


@dataclass(frozen=True)
class EditOptions:
    """The options that describe edits; `resolve` completes them with the domain's defaults."""

    fields: EditFields
    recipe: Recipe | None

    @property
    def has_edits(self) -> bool:
        """Whether there is any edit."""
        fields = self.fields
        return bool(self.recipe or fields.targets or fields.presets or fields.directions)

    def check(self, required: bool = True) -> None:
        """Raise UsageError if options do not fit together, or if a required edit is missing."""
        fields = self.fields
        named = fields.targets or fields.presets or fields.directions
        if self.recipe:
            if named or fields.neutrals or fields.strengths or fields.thresholds:
                raise click.UsageError("a recipe contains all edits: leave out the other options")
            if not self.recipe.edits:
                raise click.UsageError("all edits of the recipe are switched off")
        elif required and not named:
            raise click.UsageError(
                "say what to change: --target TEXT, --preset NAME, --direction NAME=A or --recipe"
            )
        try:
            fields.check()
        except EditsMismatch as error:
            raise click.UsageError(str(error)) from error

    def resolve(self, domain: Domain) -> list[Edit]:
        """Return the edits: presets, then targets, then directions; or those of the recipe."""
        if self.recipe:
            if self.recipe.domain != domain.name:
                click.echo(
                    f"styleclip: the recipe is for domain {self.recipe.domain}, the server "
                    f"has {domain.name}: its strengths may not fit",
                    err=True,
                )
            return list(self.recipe.edits)
        return self.fields.resolve(domain)


def _domain(context: click.Context) -> Domain | None:
    """Return the domain of the server that the command line names, if it answers in a second."""
    named = context.params.get("server") or os.environ.get("STYLECLIP_SERVER")
    url = named if isinstance(named, str) else DEFAULT_URL
    token = context.params.get("token") or os.environ.get("STYLECLIP_TOKEN")
    with contextlib.suppress(Exception), ConnectionOptions(1.0, 0, token).client(url) as client:
        return client.domain()
    return None


def _complete_preset(
    context: click.Context, _: click.Parameter, prefix: str
) -> list[CompletionItem]:
    domain = _domain(context)
    return [
        CompletionItem(preset.title, help=preset.edit.label)
        for preset in (domain.presets if domain else ())
        if preset.title.lower().startswith(prefix.lower())
    ]


def _complete_direction(
    context: click.Context, _: click.Parameter, prefix: str
) -> list[CompletionItem]:
    domain = _domain(context)
    return [
        CompletionItem(f"{each.name}=", help=f"{each.title}, {each.low:g} to {each.high:g}")
        for each in (domain.directions if domain else ())
        if each.name.startswith(prefix.lower())
    ]


def edit_options(command: Command) -> Command:
    """Add the texts and numbers of the edits; the command gets `edit_options`."""
    return _add_edit_options(command, required=True)


def optional_edit_options(command: Command) -> Command:
    """Add the same for a command that needs no edit."""
    return _add_edit_options(command, required=False)


def _add_edit_options(command: Command, *, required: bool) -> Command:
    options = (
        click.option(
            "--target", multiple=True, metavar="TEXT", help="What it should show. Repeatable."
        ),
        click.option("--neutral", multiple=True, metavar="TEXT", help="What the photo shows."),
        click.option(
            "--strength",
            multiple=True,
            type=float,
            metavar="A",
            help="α: how far; negative is the opposite way.",
        ),
        click.option(
            "--threshold",
            multiple=True,
            type=float,
            metavar="B",
            help="β, 0 to 1: higher changes fewer other things.",
        ),
        click.option(
            "--preset",
            multiple=True,
            metavar="NAME",
            help="An edit that the server knows.",
            shell_complete=_complete_preset,
        ),
        click.option(
            "--direction",
            multiple=True,
            metavar="NAME=A",
            help="A named direction and its strength, as `styleclip domain` lists them. "
            "Repeatable.",
            shell_complete=_complete_direction,
        ),
        click.option(
            "--recipe",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The edits of a recipe, as the web page saves it.",
        ),
    )

    @functools.wraps(command)
    def with_edits(
        target: Sequence[str],
        neutral: Sequence[str],
        strength: Sequence[float],
        threshold: Sequence[float],
        preset: Sequence[str],
        direction: Sequence[str],
        recipe: Path | None,
        **others: Any,
    ) -> Any:
        loaded = _load_recipe(recipe) if recipe else None
        fields = EditFields(target, neutral, strength, threshold, preset, direction, prefix="--")
        edit_options = EditOptions(fields, loaded)
        edit_options.check(required)
        return command(edit_options=edit_options, **others)

    return add_options(options, with_edits)


def _load_recipe(path: Path) -> Recipe:
    with path.open("rb") as file:
        # One more byte is refused as too long.
        return Recipe.from_json(file.read(limits.RECIPE_BYTES + 1))
