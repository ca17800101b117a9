"""The people domain: sampling, captions, shards, and a small render."""

import random
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from domains.people import render, shards
from domains.people.assets import ASSETS
from domains.people.attributes import TABLE, UNSEEN
from domains.people.captions import GRAMMAR, describe
from domains.people.renderer import Quality
from domains.people.sampling import PHOTOS_OF_A_PERSON, sample

COARSE = Quality(surrounding_lights=4, shadow_size=64, strands=600)


@pytest.fixture(scope="module")
def targets():
    with np.load(ASSETS) as data:
        return [str(name) for name in data["target_names"]]


@pytest.fixture(scope="module")
def heads(targets):
    return [sample(seed, targets) for seed in range(1500)]


def test_a_seed_gives_the_same_head_every_time(targets):
    assert sample(17, targets) == sample(17, reversed(targets))
    assert sample(17, targets) != sample(18, targets)


def test_photos_of_a_person_share_what_does_not_change(heads):
    for first in range(0, 100, PHOTOS_OF_A_PERSON):
        photos = heads[first : first + PHOTOS_OF_A_PERSON]
        for name in ("sex", "age", "skin", "beard", "freckles"):
            assert len({photo.labels[name] for photo in photos}) == 1
        assert len({photo.camera.yaw for photo in photos}) == PHOTOS_OF_A_PERSON


def test_every_value_of_every_attribute_occurs(heads):
    for attribute in TABLE.attributes:
        counts = Counter(head.labels[attribute.name] for head in heads)
        assert set(attribute.names) <= set(counts), attribute.name
        assert set(counts) <= {*attribute.names, UNSEEN}, attribute.name
        assert min(counts[name] for name in attribute.names) >= 15, (attribute.name, counts)


def test_angles_stay_within_the_stated_range(heads):
    assert max(abs(head.camera.yaw) for head in heads) <= np.radians(25)
    assert max(abs(head.camera.pitch) for head in heads) <= np.radians(12)


def test_heads_of_one_kind_do_not_contradict_each_other(heads):
    for head in heads:
        labels = head.labels
        assert labels["beard"] == "none" or (labels["sex"] == "male" and labels["age"] != "child")
        assert labels["hair_style"] != "bald" or labels["hair_color"] == UNSEEN
        assert labels["glasses"] != "sunglasses" or labels["eye_color"] == UNSEEN
        assert labels["expression"] != "eyes closed" or labels["eye_color"] == UNSEEN


def test_captions_say_only_what_the_labels_say(heads):
    rng = random.Random(1)
    for head in heads[:400]:
        text, chosen = describe(head.labels, rng)
        assert len({phrase.attribute for phrase in chosen}) == len(chosen)
        for phrase in chosen:
            assert phrase.text in text
            attribute = TABLE.attributes[phrase.attribute]
            assert head.labels[attribute.name] in {attribute.names[v] for v in phrase.allowed}
        sex = head.labels["sex"]
        words = text.split()
        assert not {"man", "guy", "boy", "male"} & set(words) or sex == "male"
        assert not {"woman", "lady", "girl", "female"} & set(words) or sex == "female"


def test_every_value_that_has_words_can_be_said():
    for a, attribute in enumerate(TABLE.attributes):
        for v, value in enumerate(attribute.values):
            said = [p for p in GRAMMAR.phrases if p.attribute == a and v in p.allowed]
            assert said or not (value.adjectives or value.phrases)


def test_shards_are_bounded_complete_and_resumed(tmp_path):
    writer = shards.ShardWriter(tmp_path, 100_000)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for seed in range(40):
        writer.add(seed, shards.encode_jpeg(noise, 90), {"seed": seed})
    (tmp_path / "heads-00000099-00000100.partial").write_bytes(b"half")
    assert shards.rendered_seeds(tmp_path) < set(range(40))  # the last shard is not written yet
    assert not list(tmp_path.glob("*.partial"))
    writer.flush()
    assert shards.rendered_seeds(tmp_path) == set(range(40))
    assert all(path.stat().st_size <= 100_000 for path in tmp_path.iterdir())
    assert [labels["seed"] for _, labels in shards.read_shards(tmp_path)] == list(range(40))


@pytest.fixture
def count_launches(monkeypatch):
    """Return a function that calls another one and returns its result and its operations.

    What the host computes does not count, and drawing is one kernel for each call.
    """
    pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

    from domains.people import background, lighting, renderer, scene, surfaces, tufts

    class Launches(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    launches = Launches()

    def leave_out(module, name, kernels):
        function = getattr(module, name)

        def uncounted(*args, **kwargs):
            launches.count += kernels
            with _disable_current_modes():
                return function(*args, **kwargs)

        monkeypatch.setattr(module, name, uncounted)

    for module in (scene, lighting):
        leave_out(module, "draw_triangles", 2)
    leave_out(tufts, "draw_strands_", 1)
    for module, name in ((surfaces, "_build_on_host"), (background, "_Sketch")):
        leave_out(module, name, 0)
    for name in ("_place_camera", "place_lights"):
        leave_out(renderer, name, 0)

    def count(function, *args):
        launches.count = 0
        with launches:
            result = function(*args)
        return result, launches.count

    return count


@pytest.fixture(scope="module")
def renderer():
    """A renderer for small and coarse photos."""
    return render.open_renderer("cpu", COARSE)


def test_a_batch_of_heads_gives_the_same_photos_with_hardly_more_launches(renderer, count_launches):
    ((pixels, record),), alone = count_launches(render.render_seeds, renderer, [33], 64)
    results, together = count_launches(render.render_seeds, renderer, [33, 8], 64)
    assert np.abs(pixels.astype(int) - results[0][0]).mean() < 0.05
    assert record == results[0][1]
    assert 1000 < together < 1.3 * alone
    assert pixels.shape == (64, 64, 3)
    assert pixels.std() > 15
    landmarks = np.array(record["landmarks"])
    assert landmarks.shape == (68, 2)
    assert landmarks.min() > 0 and landmarks.max() < 64
    eyes, mouth = landmarks[36:48].mean(0), landmarks[48:68].mean(0)
    assert mouth[1] - eyes[1] > 5
    assert landmarks[36:42, 0].mean() < landmarks[42:48, 0].mean()  # the person's right comes first


def test_a_compact_landmark_model_keeps_its_leaves_to_a_two_hundredth(tmp_path):
    dlib = pytest.importorskip("dlib")
    from domains.people.compact_landmarks import compact
    from styleclip_server.engines.cuda.faces.landmarks import read_model

    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.num_trees_per_cascade_level, options.num_threads = 2, 3, 1
    options.num_test_splits, options.oversampling_amount, options.feature_pool_size = 2, 2, 50
    options.be_verbose = False
    rng = np.random.default_rng(0)
    faces = []
    for _ in range(4):
        parts = [dlib.point(*map(int, rng.integers(10, 50, 2))) for _ in range(5)]
        faces.append([dlib.full_object_detection(dlib.rectangle(5, 5, 55, 55), parts)])
    images = [rng.integers(0, 255, (64, 64), np.uint8) for _ in faces]
    path, short = tmp_path / "whole.dat", tmp_path / "short.dat"
    dlib.train_shape_predictor(images, faces, options).save(str(path))
    short.write_bytes(path.read_bytes())
    compact(short)
    assert short.stat().st_size < path.stat().st_size
    models = read_model(path), read_model(short)
    np.testing.assert_array_equal(models[0].initial_shape, models[1].initial_shape)
    for before, after in zip(models[0].forests, models[1].forests, strict=True):
        np.testing.assert_array_equal(before.thresholds, after.thresholds)
        np.testing.assert_allclose(before.leaves, after.leaves, rtol=1 / 200)
    dlib.shape_predictor(str(short))


def test_a_scene_shows_its_heads_side_by_side(renderer):
    from domains.people.scenes import SCENES, Scene, render_scene

    photos = [
        np.asarray(render_scene(renderer, Scene(seeds, shifts, 9.0, 33), 64), int)
        for seeds, shifts in (
            ((33,), ((-0.25, 0.0),)),
            ((33, 8), ((-0.25, 0.0), (0.25, 0.0))),
        )
    ]
    assert photos[0].shape == (43, 64, 3)
    change = np.abs(photos[1] - photos[0]).mean((0, 2))
    assert change[:16].max() < 1 < change[40:56].min()
    assert min(min(scene.seeds) for scene in SCENES.values()) >= 1_000_000  # held out


def test_training_landmarks_on_heads_without_faces_is_a_clear_error(tmp_path):
    pytest.importorskip("dlib")
    from domains.people.train_landmarks import main

    writer = shards.ShardWriter(tmp_path / "00", 100_000)
    gray = np.full((96, 96, 3), 128, dtype=np.uint8)
    writer.add(0, shards.encode_jpeg(gray, 90), {"seed": 0, "landmarks": [[48, 48]] * 68})
    writer.flush()
    out = tmp_path / "landmarks.dat"
    result = CliRunner().invoke(main, ["--heads", str(tmp_path), "--out", str(out)])
    assert result.exit_code == 1
    assert "0 detected faces are too few" in result.output
    assert not out.exists()


def test_the_command_renders_only_the_missing_heads_when_it_runs_again(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "PREVIEW", COARSE)
    arguments = ["--out", str(tmp_path), "--size", "64", "--preview", "--device", "cpu"]

    def run(count):
        result = CliRunner().invoke(render.main, [*arguments, "--count", str(count)])
        assert result.exit_code == 0, result.output
        assert f"{count} heads in" in result.output
        return {path.name: path.read_bytes() for path in (tmp_path / "00").iterdir()}

    first = run(2)
    assert shards.rendered_seeds(tmp_path / "00") == {0, 1}
    assert run(2) == first
    third = run(3)
    assert first.items() < third.items()
    assert shards.rendered_seeds(tmp_path / "00") == {0, 1, 2}


def test_the_kernels_for_gpus_draw_what_the_rasterizer_draws_on_cpus(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from domains.people import kernels, rasterizer
    from domains.people.strands import Strands, draw_strands_

    generator = torch.Generator().manual_seed(0)
    size, images = 24, 2
    points = torch.rand(2, images, 12, 3, generator=generator) * size
    triangles = torch.randint(12, (14, 3), generator=generator)
    heads = torch.arange(14) // 8
    keep = torch.rand(2, 12, generator=generator) - 0.4
    for keep_or_none in (None, keep):
        expected = rasterizer.draw_triangles(points, triangles, heads, size, keep_or_none)
        keys = torch.full_like(expected, rasterizer.EMPTY)
        kernels.draw_triangles_(keys, points, triangles, heads, size, keep_or_none)
        assert ((keys & 0xFFFFFFFF) == (expected & 0xFFFFFFFF)).float().mean() > 0.99
        covered = (keys != rasterizer.EMPTY).float().mean()
        assert 0.1 < covered < 1.0, covered
    nodes = torch.rand(6, 4, 3, generator=generator) * size
    strands = Strands(nodes, torch.ones(6), torch.tensor([1.0, 0.7, 0.3, 1.0, 0.0, 1.0]))
    matrices = torch.eye(4).repeat(images, 1, 1)
    matrices[:, 2], matrices[1, 0, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0]), 3.5
    matrices[:, 3] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    for every in (1, 2):
        expected = torch.full((images, size * size), rasterizer.EMPTY)
        counts, expected_counts = torch.zeros(expected.shape), torch.zeros(expected.shape)
        draw_strands_(expected, strands, 9, matrices, size, 5, expected_counts, every)
        keys = torch.full_like(expected, rasterizer.EMPTY)
        some = nodes if every == 1 else torch.cat([nodes, nodes], 1)[:, :4]
        kernels.draw_strands_(keys, counts, some, strands.fraction, matrices, size, 9, 5, every)
        assert ((keys & 0xFFFFFFFF) == (expected & 0xFFFFFFFF)).float().mean() > 0.99
        assert (counts - expected_counts).abs().sum() <= 2
        assert expected_counts.sum() > 40 / every


def test_an_edit_that_moves_no_channel_counts_as_an_unchanged_image(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("dlib")
    from domains.people import evaluation
    from domains.people.text_pairs import TEXT_PAIRS
    from styleclip_contract.errors import NoChannelLeft

    class Networks:
        def edit(self, faces, pair, strength, threshold):
            raise NoChannelLeft("none")

        def reconstruct(self, faces):
            return faces.astype(np.uint8)

    class Reader:
        def read(self, images):
            return torch.from_numpy(images).long()

    monkeypatch.setattr(evaluation, "describe_persons", lambda images: images.astype(float))
    pair = TEXT_PAIRS[0]
    labels = torch.zeros(4, len(TABLE.names), dtype=torch.long)
    labels[3, pair.column] = TABLE.attributes[pair.column].index(pair.values[0])
    arrays = labels.numpy()
    test = evaluation.EvaluationSet(
        arrays.astype(np.uint8), labels, arrays.astype(float), arrays, labels[:0], labels >= 0
    )
    rows = evaluation.find_rows(test, pair)
    images = evaluation.apply_edit(Networks(), arrays[rows.numpy()], pair, 5.0, 0.15)
    judgment = evaluation.judge_edit(Reader(), test, pair, rows, images)
    assert evaluation.summarize_edit(judgment) == {
        "hit": 0.0, "kept": 1.0, "worst": 1.0, "distance": 0.0,
    }  # fmt: skip
    assert evaluation.evaluate_removal(Networks(), Reader(), test, pair, 5.0, 0.15) == 0.0
    inversions = evaluation.judge_inversions(Reader(), test, arrays.astype(np.uint8))
    groups = evaluation.measure_groups(test, inversions, [(rows, judgment)])
    ((_, group),) = groups["sex"].items()
    assert (group["photos"], group["inverted"], group["hit"], group["kept"]) == (4, 1, 0, 1)


def test_what_an_edit_asks_to_hide_counts_in_no_head(monkeypatch):
    """Closed eyes and hats: the rate would be that of the few heads that miss the target."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("dlib")
    from domains.people import evaluation
    from domains.people.text_pairs import TextPair, find_hidden

    class Reader:
        def read(self, images):
            return torch.from_numpy(images).long()

    monkeypatch.setattr(evaluation, "describe_persons", lambda images: images.astype(float))
    pair = TextPair("a face with closed eyes", "expression", ("eyes closed",))
    closed, eyes = TABLE["expression"].index("eyes closed"), TABLE.names.index("eye_color")
    labels = torch.zeros(2, len(TABLE.names), dtype=torch.long)
    images = labels.numpy().copy()
    images[0, pair.column] = closed  # the other head misses the target
    images[1, [eyes, 0]] = 1
    test = evaluation.EvaluationSet(
        images, labels, images.astype(float), images, labels[:0], labels >= 0
    )
    rows = torch.ones(2, dtype=torch.bool)
    judgment = evaluation.judge_edit(Reader(), test, pair, rows, images)
    assert judgment.all_rates[eyes] is judgment.all_rates[pair.column] is None
    assert judgment.all_rates[0] == 0.5
    hats = TextPair("headwear", "headwear", ("hat", "beanie"))
    assert find_hidden(hats) == {"hair_style", "earrings"}
    assert not find_hidden(TextPair("a smile", "expression", ("smile", "eyes closed")))


def test_a_dry_run_renders_a_person_to_train_on_and_one_to_hold_out(tmp_path, monkeypatch):
    import torch

    from domains.people import crops
    from domains.training.setup import Setup

    jobs = []
    monkeypatch.setattr(crops, "run_job", jobs.append)
    setup = Setup(
        tmp_path, tmp_path, torch.device("cpu"), 8, {"heads": 60.0}, max_steps=2, tiny=True
    )
    crops.run(setup)
    assert len({seed // PHOTOS_OF_A_PERSON for seed in jobs[0].seeds}) == 2


def test_images_of_a_small_generator_are_enlarged_to_the_size_of_crops():
    import torch

    from domains.people.changes import Changes

    changes = object.__new__(Changes)
    changes._generate = lambda amplitudes, scenes: torch.zeros(len(amplitudes), 3, 128, 128)
    amplitudes, scenes = torch.zeros(2, 12, TABLE.num_values), torch.zeros(2, 3)
    pair = changes._draw_pair(amplitudes, amplitudes, scenes)
    assert [images.shape for images in pair] == [(2, 3, 256, 256)] * 2


def test_scenes_do_not_depend_on_labels():
    import torch

    from domains.people.crops import remove_labels

    sizes = torch.tensor(TABLE.sizes)
    labels = (
        torch.rand(2000, len(sizes), generator=torch.Generator().manual_seed(0)) * sizes
    ).long()
    bearded = labels[:, TABLE.names.index("beard")] != TABLE["beard"].index("none")
    own = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    scenes = torch.stack([bearded * 0.3 + 0.1 * own, own], 1)

    result = remove_labels(scenes, labels)

    assert (result[bearded].mean(0) - result[~bearded].mean(0)).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([result[:, 0], own]))[0, 1] > 0.95


def test_a_partial_change_moves_only_the_values_that_change():
    import torch

    from domains.people.changes import make_partial

    torch.manual_seed(0)
    labels = torch.zeros(400, len(TABLE.names), dtype=torch.long)
    changed = labels.clone()
    changed[:, TABLE.names.index("beard")] = TABLE["beard"].index("moustache")
    before, after = (TABLE.one_hot(some)[:, None].expand(-1, 14, -1) for some in (labels, changed))

    start, end = make_partial(before, after)

    moved = (end - start) != 0
    assert not moved[..., (before == after).flatten(0, 1).all(0)].any()
    layers = moved.any(2).sum(1)
    assert layers.min() >= 1 and 0.3 < (layers < 14).float().mean() < 0.6
    whole = (start == before).all((1, 2)) & (end == after).all((1, 2))
    assert 0.4 < whole.float().mean() < 0.6
    new = TABLE.offsets[TABLE.names.index("beard")] + TABLE["beard"].index("moustache")
    assert (end - start)[..., new].min() >= 0


def test_the_classifier_of_the_report_reads_its_photos():
    torch = pytest.importorskip("torch")
    pytest.importorskip("dlib")
    from domains.people.evaluation import AttributeReader
    from domains.people.quality import DOMAIN, HERE
    from styleclip_server.pipeline.alignment import Aligner

    reader, aligner = AttributeReader(HERE / "classifier.pt"), Aligner(DOMAIN)
    heads = list(shards.read_shards(HERE / "photos/0"))
    assert len({record["seed"] // 4 for _, record in heads}) == len(heads) == 36
    crops = [aligner.decode_and_align(jpeg)[0] for jpeg, _ in heads[:8]]
    labels = torch.tensor([TABLE.encode(record["labels"]) for _, record in heads[:8]])
    right = (reader.read(np.stack(crops)) == labels)[labels >= 0]
    assert right.float().mean() > 0.75
