"""POST /v1/edit: a form or JSON in, an image or several out."""

import base64
import email
import email.policy
import gzip
import io
import json
import zipfile

import numpy as np
import pytest

from edit_requests import PHOTO, SAD, events, image_of, photo
from paths import AVATAR
from polling import wait_until
from styleclip_client import Client, Inverted, faces
from styleclip_client.recipe import Recipe, Step

# Of a generator with 1024 x 1024 pixels.
OTHER_LATENT = Inverted(np.zeros((18, 512), np.float32), np.zeros((4, 2), np.float32)).to_bytes()


@pytest.fixture(scope="module")
def expected(server):
    """The edited image, as the Python client gets it."""
    with Client(server.grpc_url) as client:
        return client.edit_photo(AVATAR, client.domain().edit("a sad face")).picture


def test_a_form_gives_the_image_that_the_client_gets(api, expected):
    response = api.post("/v1/edit", files=[photo()], data=SAD)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert response.content == expected
    assert response.headers["x-channels"] == "14"
    assert "edited.jpg" in response.headers["content-disposition"]


def test_json_with_base64_gives_the_same_image(api, expected):
    text = base64.b64encode(PHOTO).decode()
    for value in (text, [text], f"data:image/png;base64,{text}"):
        response = api.post("/v1/edit", json={"photo": value, "target": "a sad face"})
        assert response.content == expected


@pytest.mark.parametrize(
    ("accept", "fields", "media_type"),
    [
        ("*/*", {}, "image/jpeg"),
        ("image/png", {}, "image/png"),
        ("image/avif, image/webp, image/*;q=0.8", {}, "image/webp"),
        ("text/html, image/png;q=0.5, image/jpeg;q=0.9", {}, "image/jpeg"),
        ("*/*", {"format": "png"}, "image/png"),
        ("image/*", {"format": "WebP"}, "image/webp"),
    ],
)
def test_the_format_field_wins_over_the_accept_header(api, accept, fields, media_type):
    response = api.post(
        "/v1/edit", files=[photo()], data={**SAD, **fields}, headers={"accept": accept}
    )
    assert response.headers["content-type"] == media_type
    assert f"image/{image_of(response.content).format.lower()}" == media_type


def test_one_image_comes_as_json_if_that_is_accepted(api, expected):
    response = api.post(
        "/v1/edit", files=[photo()], data=SAD, headers={"accept": "application/json"}
    ).json()
    (entry,) = response["images"]
    assert base64.b64decode(entry["image"]) == expected
    assert (entry["name"], entry["media_type"], entry["channels"]) == ("me", "image/jpeg", [14])


def test_several_edits_and_presets_are_summed_like_those_of_the_client(api, server):
    fields = {
        "preset": "beard",
        "target": ["a sad face", "a face with red hair"],
        "neutral": "a face",
        "strength": ["1", "2", "3"],
        "threshold": "0.12",
        "format": "png",
    }
    response = api.post("/v1/edit", files=[photo()], data=fields)
    with Client(server.grpc_url) as client:
        domain = client.domain()
        edits = [
            domain.edit("a face with a beard", strength=1, threshold=0.12),
            domain.edit("a sad face", strength=2, threshold=0.12),
            domain.edit("a face with red hair", strength=3, threshold=0.12),
        ]
        assert response.content == client.edit_photo(AVATAR, edits, format="PNG").picture


def test_named_directions_are_fields_with_or_without_their_strengths(api, server):
    with Client(server.grpc_url) as client:
        domain = client.domain()
        edits = [
            domain.edit("a sad face", strength=4),
            domain.direction("beard").edit(3),
            domain.direction("glasses").edit(2),
        ]
        expected = client.edit_photo(AVATAR, edits).picture
    for fields in (
        {**SAD, "direction": ["beard=3", "glasses=2"], "strength": 4},
        {**SAD, "direction": ["beard", "glasses"], "strength": [4, 3, 2]},
    ):
        assert api.post("/v1/edit", files=[photo()], data=fields).content == expected
    listed = api.get("/v1/domain").json()["directions"]
    assert {
        "name": "beard",
        "title": "Beard",
        "low": -5,
        "high": 5,
        "follows_face": False,
    } in listed
    response = api.post("/v1/edit", files=[photo()], data={"direction": "mood=1"})
    assert response.status_code == 400 and "UnknownDirection" in response.text
    response = api.post("/v1/edit", files=[photo()], data={"direction": "beard=9"})
    assert response.status_code == 400 and "-5 to 5" in response.text


def test_a_latent_replaces_the_photo(api, server):
    inverted = api.post("/v1/invert", files=[photo("me.png")])
    assert inverted.status_code == 200
    assert 'filename="me.npz"' in inverted.headers["content-disposition"]
    latent = ("latent", ("me.npz", inverted.content))
    response = api.post("/v1/edit", files=[latent], data=SAD)
    with Client(server.grpc_url) as client:
        face = client.invert(AVATAR)
        edited = client.edit(face.w_plus, client.domain().edit("a sad face"))
        pasted = client.paste(AVATAR, face, client.domain().edit("a sad face"))
    assert response.content == edited.picture
    response = api.post("/v1/edit", files=[latent, photo()], data={**SAD, "paste": "true"})
    assert response.content == pasted.picture


def test_a_recipe_of_the_page_is_applied(api, server):
    with Client(server.grpc_url) as client:
        edits = [client.domain().edit("a sad face", strength=2), client.domain().preset("beard")]
        recipe = Recipe("avatars", "1", (Step(edits[0]), Step(edits[1], on=False)))
        expected = client.edit_photo(AVATAR, edits[0]).picture
    response = api.post("/v1/edit", files=[photo()], data={"recipe": recipe.to_json()})
    assert response.content == expected


def test_a_compressed_body_is_read_and_one_that_unpacks_to_too_much_is_refused(api, expected):
    request = api.build_request("POST", "/v1/edit", files=[photo()], data=SAD)
    headers = {"content-type": request.headers["content-type"], "content-encoding": "gzip"}
    body = gzip.compress(request.read())
    assert api.post("/v1/edit", content=body, headers=headers).content == expected
    bomb = gzip.compress(bytes(40 * 2**20))
    assert api.post("/v1/edit", content=bomb, headers=headers).json()["name"] == "ImageTooLarge"


SEVERAL_FILES = (photo("a.png"), ("photo", ("b.txt", b"no photo")), photo("a.png"))


def test_several_photos_come_as_a_zip_archive_in_which_a_failure_is_a_file(api, expected):
    response = api.post("/v1/edit", files=SEVERAL_FILES, data=SAD)
    assert response.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.namelist() == ["a.jpg", "b.problem.json", "a-2.jpg"]
    assert archive.read("a.jpg") == archive.read("a-2.jpg") == expected
    assert json.loads(archive.read("b.problem.json"))["name"] == "NotAnImage"


def test_several_photos_come_as_multipart_if_that_is_accepted(api, expected):
    response = api.post(
        "/v1/edit", files=SEVERAL_FILES, data=SAD, headers={"accept": "multipart/mixed"}
    )
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    assert [part.get_content_type() for part in parts] == [
        "image/jpeg", "application/problem+json", "image/jpeg",
    ]  # fmt: skip
    assert [part.get_filename() for part in parts] == ["a.jpg", "b.problem.json", "a-2.jpg"]
    assert parts[0].get_payload(decode=True) == expected


def test_several_photos_come_as_json_if_that_is_accepted(api, expected):
    response = api.post(
        "/v1/edit", files=SEVERAL_FILES, data=SAD, headers={"accept": "application/json"}
    )
    first, failed, last = response.json()["images"]
    assert first["image"] == last["image"] and base64.b64decode(first["image"]) == expected
    assert failed["problem"]["name"] == "NotAnImage" and "image" not in failed


def test_progress_with_several_photos_is_reported_by_events(api):
    response = api.post(
        "/v1/edit", files=SEVERAL_FILES, data=SAD, headers={"accept": "text/event-stream"}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *progress, (last, result) = events(response)
    assert progress == [("progress", {"done": done, "total": 3}) for done in (1, 2, 3)]
    assert last == "result" and len(result["images"]) == 3


def test_if_all_photos_fail_the_first_failure_is_reported(api):
    files = [("photo", ("b.txt", b"no photo"))] * 2
    response = api.post("/v1/edit", files=files, data=SAD)
    assert response.status_code == 400 and response.json()["name"] == "NotAnImage"


def test_several_photos_cannot_be_returned_as_one_image(api):
    response = api.post("/v1/edit", files=SEVERAL_FILES, data=SAD, headers={"accept": "image/png"})
    assert response.status_code == 406
    assert "application/zip" in response.json()["detail"]


def test_an_error_is_the_last_event_of_a_stream(api):
    response = api.post(
        "/v1/edit",
        files=[("photo", b"no photo")],
        data={**SAD, "threshold": "7"},
        headers={"accept": "text/event-stream"},
    )
    ((name, problem),) = events(response)
    assert (name, problem["name"]) == ("error", "InvalidThreshold")


@pytest.fixture(scope="module")
def astronaut(golden):
    """A photo in which the detector finds several faces."""
    return (golden / "align" / "astronaut.png").read_bytes()


def test_the_faces_of_a_photo_are_listed(api, astronaut):
    listed = api.post("/v1/faces", files={"photo": astronaut}).json()["faces"]
    assert [face["face"] for face in listed] == list(range(len(listed)))
    assert listed and all(len(face["box"]) == 4 for face in listed)
    scores = [face["score"] for face in listed]
    assert scores == sorted(scores, reverse=True)


def test_all_faces_of_a_photo_are_edited_as_the_client_edits_them(api, server, astronaut):
    fields = {**SAD, "face": "all", "align": "true"}
    separate = api.post("/v1/edit", files={"photo": ("us.png", astronaut)}, data=fields)
    together = api.post("/v1/edit", files={"photo": astronaut}, data={**fields, "paste": "true"})
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a sad face")
        each = faces.edit_each(client, astronaut, edit, align=True)
        pasted = faces.edit_together(client, astronaut, edit, align=True)
    archive = zipfile.ZipFile(io.BytesIO(separate.content))
    assert archive.namelist() == [f"us-{index}.jpg" for index in range(len(each))]
    for name, edited in zip(archive.namelist(), each, strict=True):
        assert archive.read(name) == edited.picture
    assert together.content == pasted.picture
    assert together.headers["x-unclear-faces"] == "1" and "x-unclear-faces" not in separate.headers


@pytest.mark.parametrize(
    ("files", "fields", "name", "words"),
    [
        ([photo()], {}, "InvalidInput", "say what to change"),
        ([("x", b"")], SAD, "InvalidInput", "x is a file"),
        ([photo()], {"target": ""}, "EmptyText", "empty"),
        ([photo()], {"target": "a face"}, "SameTexts", "differ"),
        ([photo()], {"target": "x" * 301}, "TextTooLong", "301"),
        ([photo()], {**SAD, "strength": "21"}, "InvalidStrength", "21"),
        ([photo()], {**SAD, "strength": "much"}, "InvalidInput", "strength.0"),
        ([photo()], {**SAD, "threshold": "2"}, "InvalidThreshold", "0 to 1"),
        ([photo()], {**SAD, "threshold": "1"}, "NoChannelLeft", "at most"),
        ([photo()], {**SAD, "strength": ["1", "2"]}, "EditsMismatch", "strength is given 2 times"),
        ([photo()], {**SAD, "strenght": "1"}, "InvalidInput", "no field 'strenght'"),
        ([photo()], {**SAD, "face": ["1", "2"]}, "InvalidInput", "face is given 2 times"),
        ([photo()], {**SAD, "face": "-7"}, "FaceIndexOutOfRange", "-7"),
        ([photo()], {**SAD, "format": "bmp"}, "UnknownFormat", "jpeg, png, webp"),
        ([photo()], {**SAD, "quality": "101"}, "UnknownFormat", "101"),
        ([photo()], {"preset": "wings"}, "UnknownPreset", "Sunglasses"),
        ([photo()], {"recipe": "{}"}, "InvalidRecipe", "not a recipe"),
        ([photo()], {**SAD, "photo": "me.png"}, "InvalidInput", "with an @"),
        ([("photo", b"")], SAD, "NotAnImage", "empty"),
        ([("latent", b"PK")], SAD, "InvalidLatent", "not a file that `styleclip invert` wrote"),
        (
            [("latent", OTHER_LATENT)],
            SAD,
            "InvalidLatent",
            "18 rows; the server",
        ),
        ([photo()], {"target": "&nbsp;"}, "EmptyText", "no character that CLIP reads"),
        ([photo(), ("latent", b"PK")], SAD, "InvalidInput", "a photo or a latent"),
        ([("latent", b"PK")], {**SAD, "paste": "1"}, "InvalidInput", "paste"),
        ([photo()] * 17, SAD, "InvalidInput", "16"),
    ],
)
def test_an_invalid_field_is_refused_by_name(api, files, fields, name, words):
    response = api.post("/v1/edit", files=files, data=fields)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"]) == (400, 400)
    assert problem["name"] == name and words in problem["detail"]
    assert problem["remedy"] and problem["title"]
    assert problem["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "name"),
    [
        (b"{", "application/json", 400, "InvalidInput"),
        (b"[" * 100_000, "application/json", 400, "InvalidInput"),
        (b'{"photo": "no base64"}', "application/json", 400, "InvalidInput"),
        (b'{"photo": 7}', "application/json", 400, "InvalidInput"),
        (b'{"target": "a sad face"}', "application/json", 400, "InvalidInput"),
        (b"photo=me", "application/x-www-form-urlencoded", 415, "UnsupportedMediaType"),
        (PHOTO, "image/png", 415, "UnsupportedMediaType"),
        (b"--x", "multipart/form-data", 400, "InvalidInput"),
        (b"nothing", "multipart/form-data; boundary=x", 400, "InvalidInput"),
        (
            b'--x\r\nContent-Disposition: form-data; name="target"\r\n\r\na',
            "multipart/form-data; boundary=x",
            400,
            "InvalidInput",
        ),
    ],
)
def test_a_body_that_is_neither_a_form_nor_json_is_refused(
    api, content, content_type, status, name
):
    response = api.post("/v1/edit", content=content, headers={"content-type": content_type})
    assert (response.status_code, response.json()["name"]) == (status, name)


def test_a_body_over_the_limit_is_refused_before_it_is_read(api):
    size = 34 * 2**20
    response = api.post("/v1/edit", files={"photo": bytes(size)}, data=SAD)
    assert (response.status_code, response.json()["name"]) == (413, "ImageTooLarge")


def test_a_form_with_too_many_fields_or_an_endless_header_is_refused(api):
    many = api.post("/v1/edit", files=[photo()], data={f"field{n}": "" for n in range(2000)})
    assert (many.status_code, many.json()["name"]) == (413, "RequestTooLarge")
    part = b'--x\r\nContent-Disposition: form-data; name="' + b"a" * (16 * 2**20)
    header = {"content-type": "multipart/form-data; boundary=x"}
    response = api.post("/v1/edit", content=part, headers=header)
    assert response.status_code == 400


def test_a_request_id_of_the_client_is_kept(api):
    response = api.post("/v1/edit", headers={"x-request-id": "order-7"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "order-7"


def test_an_unusable_request_id_is_replaced(api):
    response = api.get("/v1/domain", headers={"x-request-id": "a b"})
    assert response.headers["x-request-id"] not in ("", "a b")


def test_an_unknown_path_and_a_wrong_method_are_named_problems(api):
    unknown, wrong = api.get("/v1/wings"), api.get("/v1/edit")
    assert (unknown.status_code, unknown.json()["name"]) == (404, "NoSuchPath")
    assert (wrong.status_code, wrong.json()["name"]) == (405, "MethodNotAllowed")
    assert wrong.headers["allow"] == "POST"


def test_every_error_is_listed_with_its_remedy(api):
    kinds = {kind["name"]: kind for kind in api.get("/v1/errors").json()}
    assert kinds["NoFaceFound"]["status"] == 400
    assert all(kind["remedy"].endswith(".") and kind["title"] for kind in kinds.values())


def test_the_domain_is_described_with_presets_and_limits(api):
    domain = api.get("/v1/domain").json()
    assert (domain["name"], domain["resolution"]) == ("avatars", 256)
    assert "Beard" in [preset["title"] for preset in domain["presets"]]
    assert domain["limits"]["photos"] == 16


def test_the_id_of_a_request_is_in_the_log_of_the_server(server, api):
    response = api.post(
        "/v1/edit", files={"photo": b"no photo"}, data=SAD, headers={"x-request-id": "order-8"}
    )
    assert response.status_code == 400
    wait_until(lambda: '"request_id": "order-8"' in server.options.log.read_text())


@pytest.mark.parametrize("path", ["/v1/edit", "/v1/invert", "/v1/sweep"])
def test_a_fidelity_that_the_domain_lacks_is_refused(api, path):
    assert "features" not in api.get("/v1/domain").json()["fidelities"]
    fields = {} if path == "/v1/invert" else SAD
    response = api.post(path, files=[photo()], data={**fields, "fidelity": "features"})
    assert (response.status_code, response.json()["name"]) == (400, "UnknownFidelity")
