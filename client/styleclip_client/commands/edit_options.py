"""The edits that a command line describes: presets, texts and numbers, or a recipe."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from styleclip_client.batch.workers import Reach
from styleclip_client.commands.options import Command, add
from styleclip_client.recipe import RECIPE_BYTES, Recipe
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit

Value = TypeVar("Value")


@dataclass(frozen=True)
class Wanted:
    """The edits that the options describe; `edits` completes them with the domain's defaults."""

    targets: Sequence[str]
    neutrals: Sequence[str]
    strengths: Sequence[float]
    thresholds: Sequence[float]
    presets: Sequence[str]
    recipe: Recipe | None

    def check(self) -> None:
        """UsageError when there is nothing to do, or options that do not fit together."""
        if self.recipe:
            if self.targets or self.neutrals or self.presets or self.strengths or self.thresholds:
                raise click.UsageError("--recipe stands alone: it says all of the edits")
            if not self.recipe.edits:
                raise click.UsageError("all edits of the recipe are switched off")
        elif not self.targets and not self.presets:
            raise click.UsageError("say what to change: --target TEXT, --preset NAME or --recipe")
        count = len(self.presets) + len(self.targets)
        _each("--neutral", self.neutrals, len(self.targets), "--target")
        _each("--strength", self.strengths, count, "edit")
        _each("--threshold", self.thresholds, count, "edit")

    def edits(self, domain: Domain) -> list[Edit]:
        """Presets first, then targets; or those of the recipe."""
        if self.recipe:
            if self.recipe.domain != domain.name:
                click.echo(
                    f"styleclip: the recipe was made with domain {self.recipe.domain}, the server "
                    f"has {domain.name}: its strengths may not fit",
                    err=True,
                )
            return list(self.recipe.edits)
        count = len(self.presets) + len(self.targets)
        neutrals = _each("--neutral", self.neutrals, len(self.targets), "--target")
        edits = [domain.preset(title) for title in self.presets]
        edits += [
            domain.edit(target, neutral=neutral)
            for target, neutral in zip(self.targets, neutrals, strict=True)
        ]
        strengths = _each("--strength", self.strengths, count, "edit")
        thresholds = _each("--threshold", self.thresholds, count, "edit")
        return [
            replace(
                edit,
                strength=edit.strength if strength is None else strength,
                threshold=edit.threshold if threshold is None else threshold,
            )
            for edit, strength, threshold in zip(edits, strengths, thresholds, strict=True)
        ]


def _presets(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The presets of the server that the command line names, if it answers soon."""
    named = context.params.get("server") or os.environ.get("STYLECLIP_SERVER")
    url = named if isinstance(named, str) else "localhost:8001"
    token = context.params.get("token") or os.environ.get("STYLECLIP_TOKEN")
    with contextlib.suppress(Exception), Reach(1.0, 0, token).client(url) as client:
        return [
            CompletionItem(preset.title, help=preset.edit.target)
            for preset in client.domain().presets
            if preset.title.lower().startswith(begun.lower())
        ]
    return []


def edit_options(command: Command) -> Command:
    """Adds the texts and numbers of the edits, and hands the command a `wanted` in their place."""
    options = (
        click.option(
            "--target", multiple=True, metavar="TEXT", help="What it should show. Repeatable."
        ),
        click.option("--neutral", multiple=True, metavar="TEXT", help="What the picture shows."),
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
            shell_complete=_presets,
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
        recipe: Path | None,
        **others: Any,
    ) -> Any:
        read = Recipe.from_json(_start_of(recipe)) if recipe else None
        wanted = Wanted(target, neutral, strength, threshold, preset, read)
        wanted.check()
        return command(wanted=wanted, **others)

    return add(options, with_edits)  # type: ignore[return-value]


def _each(option: str, values: Sequence[Value], count: int, what: str) -> Sequence[Value | None]:
    """One value for each of `count`: given for each, given once for all, or None."""
    if len(values) == count:
        return values
    if not values:
        return [None] * count
    if len(values) == 1 and count:
        return list(values) * count
    raise click.UsageError(f"{option} is given {len(values)} times: once, or once a {what}")


def _start_of(path: Path) -> bytes:
    """No more of a file than tells that it is too long for a recipe."""
    with path.open("rb") as file:
        return file.read(RECIPE_BYTES + 1)
