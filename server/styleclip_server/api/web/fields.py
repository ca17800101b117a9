"""Checks of several fields of a request together, and the edits that they describe."""

from __future__ import annotations

from styleclip_client import Recipe
from styleclip_contract.domain import Domain
from styleclip_contract.edit_fields import EditFields
from styleclip_contract.edits import Edit
from styleclip_contract.errors import EditsMismatch, InvalidInput
from styleclip_server.api.web.schemas import EditableRequest, EditRequest, File


def check_photos(fields: EditableRequest) -> None:
    """Check that there is a photo or a latent, and no option that does not fit.

    Raises:
        InvalidInput: there is none, or too much.
    """
    paste = isinstance(fields, EditRequest) and fields.paste
    if not fields.photo and not fields.latent:
        raise InvalidInput("there is no photo: send the field photo, or latent")
    if not fields.latent:
        return
    if fields.photo and not (paste and len(fields.photo) == 1):
        raise InvalidInput("send a photo or a latent; both only to paste one face into one photo")
    set_fields = {"align": fields.align != "auto", "face": fields.face != -1}
    if not fields.photo:
        set_fields["paste"] = paste
    if names := [name for name, is_set in set_fields.items() if is_set]:
        raise InvalidInput(f"these fields need the photo, not a latent: {', '.join(names)}")


def one_photo(photos: list[File]) -> File:
    """Return the only photo.

    Raises:
        InvalidInput: there is none, or several.
    """
    if len(photos) != 1:
        raise InvalidInput(f"{len(photos)} photos; one is expected in the field photo")
    return photos[0]


def resolve_edits(fields: EditableRequest, domain: Domain) -> list[Edit]:
    """Return the edits of a request, completed as `Domain.edit` does.

    Raises:
        InvalidInput: there is none, or one is not accepted.
    """
    values = EditFields(
        fields.target,
        fields.neutral,
        fields.strength,
        fields.threshold,
        fields.preset,
        fields.direction,
    )
    if fields.recipe:
        if any(vars(values).values()):
            raise EditsMismatch("a recipe contains all edits: leave out the other fields")
        edits = list(Recipe.from_json(fields.recipe).edits)
        if not edits:
            raise InvalidInput("all edits of the recipe are switched off")
        return edits
    if not (fields.target or fields.preset or fields.direction):
        raise InvalidInput("say what to change: send the field target, preset, direction or recipe")
    return values.resolve(domain)
