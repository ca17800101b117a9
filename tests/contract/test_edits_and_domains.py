"""What an `Edit` accepts, and how a domain completes one."""

import json
import math
from dataclasses import replace

import pytest

from styleclip_client import Domain, Edit
from styleclip_contract import errors, limits
from styleclip_contract.edit_fields import EditFields

DOMAIN = {
    "name": "avatars",
    "title": "Cartoon avatars",
    "defaults": {"neutral": "a face", "strength": 3, "threshold": 0.1},
    "presets": [
        {
            "title": "Sunglasses",
            "neutral": "a face",
            "target": "a face with sunglasses",
            "strength": 4,
            "threshold": 0.15,
        }
    ],
}


def test_an_edit_keeps_its_arguments():
    edit = Edit("a face", "a sad face", -2.5, 0.0)
    assert (edit.neutral, edit.target, edit.strength, edit.threshold) == (
        "a face",
        "a sad face",
        -2.5,
        0.0,
    )


@pytest.mark.parametrize("neutral, target", [("", "a sad face"), ("a face", " \n\t")])
def test_an_empty_text_is_refused(neutral, target):
    with pytest.raises(errors.EmptyText, match="text is empty"):
        Edit(neutral, target, 1, 0.1)


def test_a_text_of_five_hundred_words_is_refused():
    with pytest.raises(errors.TextTooLong, match=str(limits.TEXT_CHARACTERS)):
        Edit("a face", "word " * 500, 1, 0.1)


def test_texts_that_differ_only_in_case_and_spaces_are_the_same():
    with pytest.raises(errors.SameTexts):
        Edit("A  Face", "a face ", 1, 0.1)


def test_a_text_that_is_not_unicode_is_refused():
    with pytest.raises(errors.InvalidInput, match="Unicode"):
        Edit("a face", "a \udcff face", 1, 0.1)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, limits.STRENGTH * 1.01])
def test_a_strength_that_is_not_a_number_within_limits_is_refused(strength):
    with pytest.raises(errors.InvalidStrength, match="number from"):
        Edit("a face", "a sad face", strength, 0.1)


@pytest.mark.parametrize("threshold", [math.nan, -0.01, 2, math.inf])
def test_a_threshold_outside_zero_to_one_is_refused(threshold):
    with pytest.raises(errors.InvalidThreshold, match="0 to 1"):
        Edit("a face", "a sad face", 1, threshold)


def test_a_domain_completes_an_edit_with_its_defaults():
    domain = Domain.from_json(json.dumps(DOMAIN))
    assert domain.edit("a sad face") == Edit("a face", "a sad face", 3, 0.1)
    assert domain.edit("a sad face", neutral="a man", strength=0, threshold=0) == Edit(
        "a man", "a sad face", 0, 0
    )


def test_a_target_that_a_preset_has_takes_the_presets_values():
    sunglasses = DOMAIN["presets"][0] | {"neutral": "a portrait"}
    domain = Domain.from_json(json.dumps(DOMAIN | {"presets": [sunglasses]}))
    expected = Edit("a portrait", "a face with sunglasses", 4, 0.15)
    assert domain.edit("a face with sunglasses") == domain.preset("Sunglasses") == expected
    edit = domain.edit(" A face  with SUNGLASSES")  # CLIP reads the same text
    assert (edit.strength, edit.threshold) == (4, 0.15)
    assert domain.edit(expected.target, strength=-1) == replace(expected, strength=-1)
    assert domain.edit(expected.target, threshold=0) == replace(expected, threshold=0)
    assert domain.edit(expected.target, neutral="a man") == replace(expected, neutral="a man")
    assert domain.edit("a face with glasses") == Edit("a face", "a face with glasses", 3, 0.1)


def test_fields_of_a_form_take_a_presets_values_by_its_target_too():
    domain = Domain.from_json(json.dumps(DOMAIN))
    texts = ["a face with sunglasses", "a sad face"]
    edits = EditFields(targets=texts).resolve(domain)
    assert [(edit.strength, edit.threshold) for edit in edits] == [(4, 0.15), (3, 0.1)]
    edits = EditFields(targets=texts, strengths=[2], thresholds=[0, 1]).resolve(domain)
    assert [(edit.strength, edit.threshold) for edit in edits] == [(2, 0), (2, 1)]


def test_preset_titles_ignore_case():
    domain = Domain.from_json(json.dumps(DOMAIN))
    assert domain.preset("sunglasses") == Edit("a face", "a face with sunglasses", 4, 0.15)


def test_an_unknown_preset_lists_the_known_ones():
    domain = Domain.from_json(json.dumps(DOMAIN))
    with pytest.raises(errors.UnknownPreset, match="'Sunglasses'"):
        domain.preset("Beard")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "title": "y", "defaults": {}}'])
def test_a_damaged_domain_description_is_refused(text):
    with pytest.raises(ValueError, match="damaged"):
        Domain.from_json(text)


DIRECTIONS = DOMAIN | {
    "directions": [
        {"name": "age", "title": "Age", "low": -5, "high": 5},
        {"name": "mohawk", "title": "Mohawk", "low": -1, "high": 2, "follows_face": True},
    ]
}


def test_a_domain_lists_named_directions_with_their_ranges():
    domain = Domain.from_json(json.dumps(DIRECTIONS))
    assert [(d.name, d.low, d.high, d.follows_face) for d in domain.directions] == [
        ("age", -5, 5, False),
        ("mohawk", -1, 2, True),
    ]
    edit = domain.direction("AGE").edit(3)
    assert edit == Edit(direction="age", strength=3)
    assert (str(edit), edit.label) == ("age (3)", "age")
    assert domain.strengths(edit) == (-5, 5)
    assert domain.strengths(domain.edit("a sad face")) == (-limits.STRENGTH, limits.STRENGTH)
    with pytest.raises(errors.InvalidStrength, match="strength of mohawk is 3; a number from -1"):
        domain.direction("mohawk").edit(3)
    with pytest.raises(errors.UnknownDirection, match="it has: age, mohawk"):
        domain.direction("smile")
    assert Domain.from_json(json.dumps(DOMAIN)).directions == ()


def test_fields_of_a_form_may_have_directions_with_their_strengths():
    domain = Domain.from_json(json.dumps(DIRECTIONS))
    fields = EditFields(targets=["a sad face"], strengths=[2], directions=["age=-4", "mohawk=1.5"])
    text, age, mohawk = fields.resolve(domain)
    assert (text.strength, age, mohawk.strength) == (2, Edit(direction="age", strength=-4), 1.5)
    fields = EditFields(presets=["Sunglasses"], directions=["age=1", "mohawk"], strengths=[4, 2])
    assert [edit.strength for edit in fields.resolve(domain)] == [4, 1, 2]
    assert EditFields(directions=["age"]).resolve(domain) == [Edit(direction="age", strength=2.5)]
    for wrong in ("age=", "age=old", "="):
        with pytest.raises(errors.EditsMismatch, match="NAME=STRENGTH is expected"):
            EditFields(directions=[wrong]).check()
    with pytest.raises(errors.UnknownDirection):
        EditFields(directions=["smile=1"]).resolve(domain)


@pytest.mark.parametrize("name", ["license", "licence"])
def test_the_license_of_a_domain_is_read_by_both_spellings(name):
    assert Domain.from_json(json.dumps(DOMAIN | {name: "MIT"})).license == "MIT"


def test_a_domain_has_latents_alone_unless_it_says_otherwise():
    domain = Domain.from_json(json.dumps(DOMAIN))
    assert domain.fidelity(None) == domain.fidelity("latent") == "latent"
    with pytest.raises(errors.UnknownFidelity, match="it has: latent"):
        domain.fidelity("features")
    both = {"fidelities": ["latent", "features"], "default_fidelity": "features"}
    domain = Domain.from_json(json.dumps(DOMAIN | both))
    assert domain.fidelity(None) == domain.fidelity("features") == "features"
    assert domain.fidelity("latent") == "latent"
