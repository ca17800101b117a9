"""What the trainings of the domains share."""

import random
import time

import pytest

torch = pytest.importorskip("torch")

from domains.people.attributes import TABLE  # noqa: E402
from domains.people.captions import GRAMMAR  # noqa: E402
from domains.training.contrastive import contrastive_loss, draw_label_changes, matches  # noqa: E402
from domains.training.frechet import frechet_distance  # noqa: E402
from domains.training.latent_codes import LatentCodes  # noqa: E402
from domains.training.setup import PROGRESS_FILE, Setup, read_progress  # noqa: E402


def claims_of(mask):
    return torch.tensor([bool(mask >> v & 1) for v in range(TABLE.num_values)])


def labels_of(**values):
    labels = [0] * len(TABLE.names)
    for name, value in values.items():
        labels[TABLE.names.index(name)] = -1 if value is None else TABLE[name].index(value)
    return torch.tensor(labels)


def setup(folder, **options):
    return Setup(folder, folder, torch.device("cpu"), 2, {"stage": 10.0}, **options)


def test_a_caption_matches_the_images_that_its_claims_allow():
    phrase = next(p for p in GRAMMAR.phrases if p.text == "silver hair")
    claims = claims_of(GRAMMAR.mask((phrase.attribute, phrase.allowed)))
    labels = torch.stack(
        [labels_of(hair_color=color) for color in ("grey", "white", "black", None)]
    )
    everything = torch.ones_like(claims)
    found = matches(TABLE, labels, torch.stack([claims, everything]))
    assert found.tolist() == [[1, 1], [1, 1], [0, 1], [0, 1]]


def test_a_noun_claims_sex_and_age():
    rng = random.Random(0)
    woman = labels_of(sex="female", age="young")
    for text, mask in (GRAMMAR.draw_caption(rng) for _ in range(2000)):
        if "man" in text.split():
            assert not matches(TABLE, woman[None], claims_of(mask)[None]).item(), text
            break
    else:
        pytest.fail("no caption speaks of a man")


def test_captions_without_any_image_take_no_part_in_the_loss():
    features = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    match = torch.eye(4)
    match[2] = 0
    assert torch.isfinite(contrastive_loss(features, features, torch.tensor(1.0), match))


def test_a_change_of_labels_changes_one_attribute_into_an_allowed_value():
    before = torch.stack([labels_of() for _ in range(3)])
    attribute = torch.tensor([TABLE.names.index(n) for n in ("beard", "age", "glasses")])
    allowed = torch.zeros(3, TABLE.num_values, dtype=torch.bool)
    for row, a in enumerate(attribute.tolist()):
        allowed[row, TABLE.offsets[a] + 2] = True
    old, new = draw_label_changes(TABLE, before, attribute, allowed, torch.tensor([-1, 3, -1]))
    assert ((old != new).sum(1) == 1).all()
    rows = torch.arange(3)
    assert (new[rows, attribute] == 2).all()
    assert old[1, attribute[1]] == 3


def test_amplitudes_of_a_latent_are_those_it_was_built_from():
    codes = LatentCodes(TABLE, block=4)
    p = TABLE.one_hot(labels_of(hair_style="curly")[None])
    w = p @ codes.basis()
    assert torch.allclose(codes.amplitudes(w), p, atol=1e-5)
    assert (w[:, codes.used :] == 0).all()


def test_a_stage_that_the_deadline_stops_continues_in_the_next_run(tmp_path):
    first = setup(tmp_path, deadline=time.monotonic() - 1).budget("stage")
    assert list(first) == [0]  # a step at least, so that short runs get on as well
    assert 0 < first.fraction < 0.1
    first.use(0.4 - first.fraction)
    first.save()
    assert read_progress(tmp_path / PROGRESS_FILE) == {"stage": 4.0}
    second = setup(tmp_path).budget("stage")
    assert second.resumed
    assert second.fraction == pytest.approx(0.4)
    done = setup(tmp_path, max_steps=3).budget("stage")
    assert list(done) == [0, 1, 2]
    assert done.is_done


def test_the_frechet_distance_of_equal_sets_is_zero():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(features, features + 2) == pytest.approx(16, abs=1e-3)
