"""Named directions: from names and strengths to offsets in StyleSpace."""

import json
from functools import partial

import numpy as np
import pytest

from styleclip_contract import errors, limits
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_networks.stylespace import latent_row, style_layers
from styleclip_server.pipeline import named_directions
from styleclip_server.pipeline.directions import edit_offset, style_offset
from styleclip_server.pipeline.edit_tensors import parse_edits
from styleclip_server.pipeline.named_directions import Affine, Mapper, NamedDirections
from styleclip_server.pipeline.style_statistics import Statistics

CHANNELS = (4,) * 5 + (3,) * 6  # of a generator of 32 px: conv1, toRGB, then conv, conv, toRGB, …
SIZE, LATENTS, WIDTH = sum(CHANNELS), 8, 8
RNG = np.random.default_rng(0)
OFFSET = RNG.standard_normal(SIZE).astype(np.float32)
DOMAIN = {
    "name": "small",
    "title": "a small domain",
    "num_latents": LATENTS,
    "w_dim": WIDTH,
    "style_channels": CHANNELS,
    "defaults": {"neutral": "a face", "strength": 3, "threshold": 0.1},
    "directions": [
        {"name": "age", "title": "Age", "low": -5, "high": 0.3},
        {"name": "mohawk", "title": "Mohawk", "low": -1, "high": 2, "follows_face": True},
    ],
}
STATISTICS = Statistics(
    np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32), np.zeros((1, 2), np.float32),
    np.zeros(1, np.int64),
)  # fmt: skip


def random_layers():
    return [
        (RNG.standard_normal((WIDTH, WIDTH), np.float32), RNG.standard_normal(WIDTH, np.float32))
        for _ in range(4)
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "directions").mkdir()
    np.savez(tmp_path / "directions/age.npz", offset=OFFSET)
    arrays = {}
    for layer, (weight, bias) in enumerate(random_layers()):
        arrays |= {f"medium.{layer}.weight": weight, f"medium.{layer}.bias": bias}
    np.savez(tmp_path / "directions/mohawk.npz", **arrays)
    weight = RNG.standard_normal((SIZE, WIDTH), np.float32)
    np.savez(tmp_path / "affine.npz", weight=weight)
    return tmp_path


def test_a_direction_is_the_constant_offset_times_its_strength(folder):
    named = named_directions.load_directions(folder, Domain.from_json(json.dumps(DOMAIN)))
    edits = [Edit(direction="age", strength=-2), Edit(direction="age", strength=0.25)]
    delta, counts = style_offset(STATISTICS, edits, None, named)
    np.testing.assert_allclose(delta, -1.75 * OFFSET, rtol=1e-6)
    assert counts == [SIZE, SIZE]


def test_each_modulation_reads_the_latent_that_the_generator_gives_it():
    # Execution order of 1024 px: conv1, toRGB, then conv, conv, toRGB for each resolution.
    rows = [latent_row(i) for i in range(26)]
    assert rows == [layer.latent for layer in style_layers(dict.fromkeys(2 ** np.arange(2, 11), 8))]
    assert rows[:8] == [0, 1, 1, 2, 3, 3, 4, 5] and rows[-3:] == [15, 16, 17]
    affine = Affine(np.ones((SIZE, WIDTH), np.float32), CHANNELS)
    w_offset = np.zeros((LATENTS, WIDTH), np.float32)
    w_offset[1, 0] = 1
    np.testing.assert_array_equal(affine.offset(w_offset), [0] * 4 + [1] * 8 + [0] * 26)


def test_a_mapper_moves_only_the_rows_of_its_groups():
    w_plus = RNG.standard_normal((18, WIDTH)).astype(np.float32)
    moved = Mapper({"medium": random_layers()}).offset(w_plus)
    assert moved[4:8].all() and not moved[:4].any() and not moved[8:].any()


def test_a_mapper_follows_the_face_and_needs_its_latent(folder):
    domain = Domain.from_json(json.dumps(DOMAIN))
    named = named_directions.load_directions(folder, domain)
    edits = [Edit(direction="mohawk", strength=1), Edit(direction="age", strength=-1)]
    faces = RNG.standard_normal((2, LATENTS, WIDTH)).astype(np.float32)
    sum_constant = partial(style_offset, STATISTICS, embed=None, named=named)
    for face in faces:
        delta, counts = edit_offset(edits, named, face, sum_constant)
        mapped = 0.1 * named.mappers["mohawk"].offset(face)
        np.testing.assert_allclose(delta, named.affine.offset(mapped) - OFFSET, atol=1e-6)
        assert 0 < counts[0] < SIZE and counts[1] == SIZE
    for latent in (None, faces[0][:2]):
        with pytest.raises(errors.InvalidLatent, match="mohawk depends on the face"):
            edit_offset(edits, named, latent, sum_constant)


def test_a_request_names_a_direction_beside_texts():
    numbers = np.array([4.0, 0.3], np.float32), np.array([0.1, 0], np.float32)
    text, named = parse_edits([b"a face", b""], [b"a sad face", b""], *numbers, [b"", b"Age"])
    assert (text.direction, named.direction, named.strength) == ("", "Age", 0.3)
    domain = Domain.from_json(json.dumps(DOMAIN))
    assert named_directions.resolve(domain, [text, named]) == [
        text,
        Edit(direction="age", strength=0.3),
    ]


@pytest.mark.parametrize(
    "name, strength, error, message",
    [
        (
            "mood",
            1,
            errors.UnknownDirection,
            "no direction 'mood' in domain small; it has: age, mo",
        ),
        ("x" * 65, 1, errors.UnknownDirection, str(limits.DIRECTION_CHARACTERS)),
        ("age", 0.4, errors.InvalidStrength, "strength of age is 0.4; a number from -5 to 0.3"),
        ("age", float("nan"), errors.InvalidStrength, "is nan"),
        ("age", 1e9, errors.InvalidStrength, "-100 to 100"),
    ],
)
def test_an_unknown_name_and_a_strength_outside_of_the_range_are_refused(
    name, strength, error, message
):
    domain = Domain.from_json(json.dumps(DOMAIN))
    with pytest.raises(error, match=message):
        named_directions.resolve(domain, [Edit(direction=name, strength=strength)])


def test_an_edit_has_texts_or_a_direction_but_not_both():
    with pytest.raises(errors.InvalidInput, match="not both"):
        Edit("a face", "a sad face", 1, 0.1, "age")
    with pytest.raises(errors.EditsMismatch, match="1, 1, 1, 1, 2"):
        parse_edits([b""], [b""], [1.0], [0.0], [b"age", b"smile"])


def test_files_that_do_not_fit_the_domain_are_refused(folder):
    domain = Domain.from_json(json.dumps(DOMAIN))
    np.savez(folder / "directions/age.npz", offset=OFFSET[1:])
    with pytest.raises(ValueError, match="add it again"):
        named_directions.load_directions(folder, domain)
    (folder / "directions/age.npz").unlink()
    with pytest.raises(FileNotFoundError, match="directions add"):
        named_directions.load_directions(folder, domain)
    assert named_directions.load_directions(
        folder, Domain.from_json(json.dumps(DOMAIN | {"directions": []}))
    ) == NamedDirections({}, {}, None)
