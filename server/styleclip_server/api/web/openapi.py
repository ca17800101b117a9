"""The OpenAPI description: what FastAPI cannot derive, since a request is a form or JSON."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from styleclip_server.api import problems
from styleclip_server.api.problems import Problem
from styleclip_server.api.web import negotiation, schemas
from styleclip_server.api.web.schemas import RequestModel

DESCRIPTION = """Edit a photo of a face with texts.

```sh
curl -F photo=@me.jpg -F target="a smiling face" localhost:8000/v1/edit -o smiling.jpg
```

Requests are forms with files, or JSON with the same fields, in which files are base64. Errors
are problem details (RFC 9457) with a stable name, what to do, and the id of the request, which the
header `X-Request-Id` may set.
"""

_REQUESTS = (
    schemas.EditRequest,
    schemas.InvertRequest,
    schemas.FacesRequest,
    schemas.SweepRequest,
)
_RESPONSES = (
    schemas.EditAnswer,
    schemas.SweepAnswer,
    Problem,
)
_REF = "#/components/schemas/{model}"

_EDIT_EXAMPLE = {"photo": ["iVBORw0KGgo…"], "target": ["a smiling face"], "strength": [4]}
_PROBLEM_EXAMPLE = {
    "type": "/v1/errors#NoFaceFound",
    "title": "The detector found no face in the photo.",
    "status": 400,
    "detail": "no face was found",
    "name": "NoFaceFound",
    "remedy": "Send a photo that shows a face from the front, or a face crop with align=false.",
    "request_id": "7f1c9a",
}
_STATUSES = {
    "400": "The request is not accepted.",
    "401": "A valid token is needed.",
    "406": "The server produces no accepted media type.",
    "413": "The request or an image is too large.",
    "415": "The body is neither a form nor JSON.",
    "429": "Too many requests of this client.",
    "500": "The server failed.",
    "503": "The server is busy, or is starting or stopping.",
    "504": "The server took too long.",
}
_BINARY = {"type": "string", "format": "binary"}


def _ref(model: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=model)}


def _form_name(model: type[BaseModel]) -> str:
    return model.__name__.replace("Request", "Form")


def _problems(*statuses: str) -> dict[str | int, dict[str, Any]]:
    content = {problems.MEDIA_TYPE: {"schema": _ref("Problem"), "example": _PROBLEM_EXAMPLE}}
    return {
        status: {"description": _STATUSES[status], "content": content}
        for status in statuses or _STATUSES
    }


def _body(model: type[RequestModel], example: dict[str, Any]) -> dict[str, Any]:
    """Describe a body: a form first, which is what generated clients send."""
    # Each value of a list is a part of its own.
    encoding = {
        name: {"style": "form", "explode": True}
        for name, field in model.fields_by_name().items()
        if schemas.is_repeatable(field) and name != "photo"
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _ref(_form_name(model)), "encoding": encoding},
            "application/json": {"schema": _ref(model.__name__), "example": example},
        },
    }


def _operation(
    summary: str,
    model: type[RequestModel],
    example: dict[str, Any],
    response: str,
    content: dict[str, Any],
) -> dict[str, Any]:
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": _body(model, example)},
        "responses": {200: {"description": response, "content": content}, **_problems()},
        "response_class": Response,  # none that FastAPI would describe itself
    }


edit = _operation(
    "Edit the face in a photo",
    schemas.EditRequest,
    _EDIT_EXAMPLE,
    "The edited image, or several of them.",
    {
        **{name: {"schema": _BINARY} for name in negotiation.image_types(None)},
        negotiation.ZIP: {"schema": _BINARY},
        negotiation.MIXED: {"schema": _BINARY},
        negotiation.JSON: {"schema": _ref("EditAnswer")},
        negotiation.EVENTS: {"schema": {"type": "string"}},
    },
)
invert = _operation(
    "Invert a face to a latent",
    schemas.InvertRequest,
    {"photo": ["iVBORw0KGgo…"]},
    "The latent, a NumPy .npz file with `w_plus` and `quad`, for features also `crop`.",
    {"application/octet-stream": {"schema": _BINARY}},
)
sweep = _operation(
    "Draw one edit at many strengths",
    schemas.SweepRequest,
    {**_EDIT_EXAMPLE, "steps": 5},
    "A sheet of images, an animation, or the images one by one.",
    {
        **{name: {"schema": _BINARY} for name in negotiation.IMAGES.values()},
        negotiation.ZIP: {"schema": _BINARY},
        negotiation.JSON: {"schema": _ref("SweepAnswer")},
        negotiation.EVENTS: {"schema": {"type": "string"}},
    },
)
faces: dict[str, Any] = {
    "summary": "List the faces in a photo",
    "openapi_extra": {"requestBody": _body(schemas.FacesRequest, {"photo": ["iVBORw0KGgo…"]})},
    "responses": _problems(),
}
domain: dict[str, Any] = {
    "summary": "Describe what is served",
    "responses": _problems("401", "429", "500", "503", "504"),
}
errors: dict[str, Any] = {
    "summary": "List the kinds of problems",
    "responses": _problems("401", "429"),
}
health: dict[str, Any] = {
    "summary": "Check that the server edits images",
    "responses": _problems("503"),
}


def install(app: FastAPI) -> None:
    """Let `app` serve this description."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    description = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    _, models = models_json_schema(
        [(model, "validation") for model in (*_REQUESTS, *_RESPONSES)], ref_template=_REF
    )
    components = description.setdefault("components", {})
    known = components.setdefault("schemas", {})
    for name, schema in models["$defs"].items():
        if name != schemas.File.__name__:  # which is described by what it is sent as
            known.setdefault(name, schema)
    components["schemas"] = known = {n: _simplified(schema) for n, schema in known.items()}
    for model in _REQUESTS:
        known[_form_name(model)] = _as_form(known[model.__name__])
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    # A token is needed where the server listens off loopback.
    description["security"] = [{}, {"token": []}]
    return description


def _as_form(schema: Any) -> Any:
    """Return the schema of a form: files are files, and what may be a word is a text."""
    if isinstance(schema, list):
        return [_as_form(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return {**_without(schema, "contentEncoding"), "format": "binary"}
    if "anyOf" in schema:
        return {**_without(schema, "anyOf"), "type": "string", "default": str(schema["default"])}
    return {key: _as_form(value) for key, value in schema.items()}


def _simplified(schema: Any) -> Any:
    """Return a schema without what generated clients have no use for.

    A field that may be left out needs no null, and titles only repeat the names.
    """
    if isinstance(schema, list):
        return [_simplified(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        fields = {name: _simplified(field) for name, field in schema["properties"].items()}
        rest = _without(schema, "properties", "title")
        return {**rest, "properties": fields}
    simple = {
        key: _simplified(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value is None)
    }
    return _without_null(simple)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field without null, where that leaves one alternative."""
    types = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return {**_without(schema, "anyOf"), **types[0]} if len(types) == 1 else schema


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}
