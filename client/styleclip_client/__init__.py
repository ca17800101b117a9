"""Typed client of the StyleCLIP server: photos and texts in, edited images out.

    from styleclip_client import Client, Edit

    with Client("localhost:8001") as client:
        smile = Edit("a face", "a smiling face", strength=3.0, threshold=0.1)
        edited = client.edit_photo("me.jpg", smile, format="PNG")
        edited.image().save("smiling.png")

        face = client.invert("me.jpg")  # once; every edit of it is fast
        for strength in (1, 2, 4):
            client.edit(face.w_plus, Edit("a face", "a smiling face", strength, 0.1))

`AsyncClient` is the same for asyncio; "http://localhost:8000" is the same over HTTP. The package
needs neither the server nor PyTorch. The command line is `styleclip --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from styleclip_client.async_client import AsyncClient
    from styleclip_client.client import Client
    from styleclip_client.recipe import Recipe
    from styleclip_client.results import Edited, Face, Inverted, ModelState, Status
    from styleclip_contract.domain import Direction, Domain, Preset
    from styleclip_contract.edits import Edit
    from styleclip_contract.errors import StyleclipError

# Imported on first use: a part of the package imports no more than it needs.
_MODULES = {
    "AsyncClient": "styleclip_client.async_client",
    "Client": "styleclip_client.client",
    "Direction": "styleclip_contract.domain",
    "Domain": "styleclip_contract.domain",
    "Edit": "styleclip_contract.edits",
    "Edited": "styleclip_client.results",
    "Face": "styleclip_client.results",
    "Inverted": "styleclip_client.results",
    "ModelState": "styleclip_client.results",
    "Preset": "styleclip_contract.domain",
    "Recipe": "styleclip_client.recipe",
    "Status": "styleclip_client.results",
    "StyleclipError": "styleclip_contract.errors",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Direction",
    "Domain",
    "Edit",
    "Edited",
    "Face",
    "Inverted",
    "ModelState",
    "Preset",
    "Recipe",
    "Status",
    "StyleclipError",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
