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
    answer = api.post("/v1/edit", files=[photo()], data=SAD)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content == expected
    assert answer.headers["x-channels"] == "14"
    assert "edited.jpg" in answer.headers["content-disposition"]


def test_json_with_base64_gives_the_same_image(api, expected):
    text = base64.b64encode(PHOTO).decode()
    for value in (text, [text], f"data:image/png;base64,{text}"):
        answer = api.post("/v1/edit", json={"photo": value, "target": "a sad face"})
        assert answer.content == expected


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
def test_the_format_is_the_field_s_or_what_the_client_accepts(api, accept, fields, media_type):
    answer = api.post(
        "/v1/edit", files=[photo()], data={**SAD, **fields}, headers={"accept": accept}
    )
    assert answer.headers["content-type"] == media_type
    assert f"image/{image_of(answer.content).format.lower()}" == media_type


def test_the_image_comes_as_json_if_that_is_accepted(api, expected):
    answer = api.post(
        "/v1/edit", files=[photo()], data=SAD, headers={"accept": "application/json"}
    ).json()
    (entry,) = answer["images"]
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
    answer = api.post("/v1/edit", files=[photo()], data=fields)
    with Client(server.grpc_url) as client:
        domain = client.domain()
        edits = [
            domain.edit("a face with a beard", strength=1, threshold=0.12),
            domain.edit("a sad face", strength=2, threshold=0.12),
            domain.edit("a face with red hair", strength=3, threshold=0.12),
        ]
        assert answer.content == client.edit_photo(AVATAR, edits, format="PNG").picture


def test_a_latent_takes_the_place_of_the_photo(api, server):
    inverted = api.post("/v1/invert", files=[photo("me.png")])
    assert inverted.status_code == 200
    assert 'filename="me.npz"' in inverted.headers["content-disposition"]
    latent = ("latent", ("me.npz", inverted.content))
    answer = api.post("/v1/edit", files=[latent], data=SAD)
    with Client(server.grpc_url) as client:
        face = client.invert(AVATAR)
        edited = client.edit(face.w_plus, client.domain().edit("a sad face"))
        pasted = client.paste(AVATAR, face, client.domain().edit("a sad face"))
    assert answer.content == edited.picture
    answer = api.post("/v1/edit", files=[latent, photo()], data={**SAD, "paste": "true"})
    assert answer.content == pasted.picture


def test_a_recipe_of_the_page_is_applied(api, server):
    with Client(server.grpc_url) as client:
        edits = [client.domain().edit("a sad face", strength=2), client.domain().preset("beard")]
        recipe = Recipe("avatars", "1", (Step(edits[0]), Step(edits[1], on=False)))
        expected = client.edit_photo(AVATAR, edits[0]).picture
    answer = api.post("/v1/edit", files=[photo()], data={"recipe": recipe.to_json()})
    assert answer.content == expected


def test_a_compressed_body_is_read_and_one_that_unpacks_to_too_much_is_refused(api, expected):
    request = api.build_request("POST", "/v1/edit", files=[photo()], data=SAD)
    headers = {"content-type": request.headers["content-type"], "content-encoding": "gzip"}
    body = gzip.compress(request.read())
    assert api.post("/v1/edit", content=body, headers=headers).content == expected
    bomb = gzip.compress(bytes(40 * 2**20))
    assert api.post("/v1/edit", content=bomb, headers=headers).json()["name"] == "ImageTooLarge"


class TestSeveralPhotos:
    FILES = (photo("a.png"), ("photo", ("b.txt", b"no photo")), photo("a.png"))

    def test_they_come_as_a_zip_archive_in_which_a_failure_is_a_file(self, api, expected):
        answer = api.post("/v1/edit", files=self.FILES, data=SAD)
        assert answer.headers["content-type"] == "application/zip"
        archive = zipfile.ZipFile(io.BytesIO(answer.content))
        assert archive.namelist() == ["a.jpg", "b.problem.json", "a-2.jpg"]
        assert archive.read("a.jpg") == archive.read("a-2.jpg") == expected
        assert json.loads(archive.read("b.problem.json"))["name"] == "NotAnImage"

    def test_they_come_as_multipart_if_that_is_accepted(self, api, expected):
        answer = api.post(
            "/v1/edit", files=self.FILES, data=SAD, headers={"accept": "multipart/mixed"}
        )
        head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP)
        parts = list(message.iter_parts())
        assert [part.get_content_type() for part in parts] == [
            "image/jpeg", "application/problem+json", "image/jpeg",
        ]  # fmt: skip
        assert [part.get_filename() for part in parts] == ["a.jpg", "b.problem.json", "a-2.jpg"]
        assert parts[0].get_payload(decode=True) == expected

    def test_they_come_as_json_if_that_is_accepted(self, api, expected):
        answer = api.post(
            "/v1/edit", files=self.FILES, data=SAD, headers={"accept": "application/json"}
        )
        first, failed, last = answer.json()["images"]
        assert first["image"] == last["image"] and base64.b64decode(first["image"]) == expected
        assert failed["problem"]["name"] == "NotAnImage" and "image" not in failed

    def test_progress_is_reported_by_events(self, api):
        answer = api.post(
            "/v1/edit", files=self.FILES, data=SAD, headers={"accept": "text/event-stream"}
        )
        assert answer.headers["content-type"].startswith("text/event-stream")
        *progress, (last, result) = events(answer)
        assert progress == [("progress", {"done": done, "total": 3}) for done in (1, 2, 3)]
        assert last == "result" and len(result["images"]) == 3

    def test_where_all_fail_the_first_failure_is_the_answer(self, api):
        files = [("photo", ("b.txt", b"no photo"))] * 2
        answer = api.post("/v1/edit", files=files, data=SAD)
        assert answer.status_code == 400 and answer.json()["name"] == "NotAnImage"

    def test_no_format_of_one_image_fits(self, api):
        answer = api.post("/v1/edit", files=self.FILES, data=SAD, headers={"accept": "image/png"})
        assert answer.status_code == 406
        assert "application/zip" in answer.json()["detail"]


def test_an_error_in_a_stream_is_its_last_event(api):
    answer = api.post(
        "/v1/edit",
        files=[("photo", b"no photo")],
        data={**SAD, "threshold": "7"},
        headers={"accept": "text/event-stream"},
    )
    ((name, problem),) = events(answer)
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


def test_all_faces_of_a_photo_are_edited_as_by_the_client(api, server, astronaut):
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
        ([photo()], {"recipe": "{}"}, "InvalidRecipe", "no recipe"),
        ([photo()], {**SAD, "photo": "me.png"}, "InvalidInput", "with an @"),
        ([("photo", b"")], SAD, "NotAnImage", "empty"),
        ([("latent", b"PK")], SAD, "InvalidLatent", "no file that `styleclip invert` wrote"),
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
def test_what_is_not_accepted_is_refused_by_name(api, files, fields, name, words):
    answer = api.post("/v1/edit", files=files, data=fields)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (400, 400)
    assert problem["name"] == name and words in problem["detail"]
    assert problem["remedy"] and problem["title"]
    assert problem["request_id"] == answer.headers["x-request-id"]


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
def test_a_body_that_is_no_form_and_no_json_is_refused(api, content, content_type, status, name):
    answer = api.post("/v1/edit", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["name"]) == (status, name)


def test_a_body_over_the_limit_is_refused_before_it_is_read(api):
    size = 34 * 2**20
    answer = api.post("/v1/edit", files={"photo": bytes(size)}, data=SAD)
    assert (answer.status_code, answer.json()["name"]) == (413, "ImageTooLarge")


def test_a_form_of_very_many_fields_or_an_endless_header_is_refused(api):
    many = api.post("/v1/edit", files=[photo()], data={f"field{n}": "" for n in range(2000)})
    assert (many.status_code, many.json()["name"]) == (413, "RequestTooLarge")
    part = b'--x\r\nContent-Disposition: form-data; name="' + b"a" * (16 * 2**20)
    header = {"content-type": "multipart/form-data; boundary=x"}
    answer = api.post("/v1/edit", content=part, headers=header)
    assert answer.status_code == 400


class TestErrors:
    def test_the_client_s_request_id_is_kept(self, api):
        answer = api.post("/v1/edit", headers={"x-request-id": "order-7"})
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == "order-7"

    def test_an_unusable_request_id_is_replaced(self, api):
        answer = api.get("/v1/domain", headers={"x-request-id": "a b"})
        assert answer.headers["x-request-id"] not in ("", "a b")

    def test_an_unknown_path_and_a_wrong_method_are_problems_too(self, api):
        unknown, wrong = api.get("/v1/wings"), api.get("/v1/edit")
        assert (unknown.status_code, unknown.json()["name"]) == (404, "NoSuchPath")
        assert (wrong.status_code, wrong.json()["name"]) == (405, "MethodNotAllowed")
        assert wrong.headers["allow"] == "POST"

    def test_every_kind_is_listed_with_its_remedy(self, api):
        kinds = {kind["name"]: kind for kind in api.get("/v1/errors").json()}
        assert kinds["NoFaceFound"]["status"] == 400
        assert all(kind["remedy"].endswith(".") and kind["title"] for kind in kinds.values())


def test_the_domain_is_described_with_presets_and_limits(api):
    domain = api.get("/v1/domain").json()
    assert (domain["name"], domain["resolution"]) == ("avatars", 256)
    assert "Beard" in [preset["title"] for preset in domain["presets"]]
    assert domain["limits"]["photos"] == 16


def test_health_is_a_real_edit(api):
    assert api.get("/healthz").json()["status"] == "ok"


def test_the_id_of_a_request_is_in_the_server_s_log(server, api):
    answer = api.post(
        "/v1/edit", files={"photo": b"no photo"}, data=SAD, headers={"x-request-id": "order-8"}
    )
    assert answer.status_code == 400
    wait_until(lambda: '"request_id": "order-8"' in server.options.log.read_text())
