"""What any client may send to the server, without the checks of our own client."""

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from image_files import claim_png_size, decode_pixels, encode_image
from styleclip_contract import wire


@pytest.fixture(scope="module")
def infer(server):
    """A function that runs a model on a batch of one; it returns outputs or (status, message)."""
    connection = triton.InferenceServerClient(server.grpc_url)

    def call(name, **values):
        model, inputs = wire.MODELS[name], []
        for tensor in model.inputs:
            if tensor.name not in values:
                continue
            array = np.array([values[tensor.name]], triton_to_np_dtype(tensor.datatype))
            inputs.append(triton.InferInput(tensor.name, list(array.shape), tensor.datatype))
            inputs[-1].set_data_from_numpy(array)
        try:
            response = connection.infer(name, inputs, client_timeout=60)
        except InferenceServerException as error:
            return error.status(), error.message()
        return {tensor.name: response.as_numpy(tensor.name)[0] for tensor in model.outputs}

    yield call
    connection.close()


def build_png(width=64, height=64):
    return encode_image(Image.linear_gradient("L").resize((width, height)).convert("RGB"))


PNG = build_png()
JPEG = encode_image(Image.effect_noise((200, 200), 60).convert("RGB"), "JPEG")
TEXTS = {
    "NEUTRAL": [b"a face"],
    "TARGET": [b"a sad face"],
    "STRENGTH": [5.0],
    "THRESHOLD": [0.1],
}
PHOTOS = [
    ("NotAnImage", {"PHOTO": [b"this is not an image"]}),
    ("NotAnImage", {"PHOTO": [b""]}),
    ("ImageTruncated", {"PHOTO": [JPEG[:3000]]}),
    ("ImageTooLarge", {"PHOTO": [claim_png_size(PNG, 40_000, 40_000)]}),
    ("NoFaceFound", {"PHOTO": [build_png(320, 240)], "ALIGN": [True]}),
]
EDITS = [
    ("EmptyText", {"TARGET": [b""]}),
    ("EmptyText", {"NEUTRAL": [b"  \n"]}),
    ("EmptyText", {"TARGET": [b"\xff\xfe"]}),
    ("TextTooLong", {"TARGET": [b"word " * 500]}),
    ("TextTooLong", {"TARGET": [b"x1 " * 90]}),
    ("InvalidStrength", {"STRENGTH": [float("nan")]}),
    ("InvalidStrength", {"STRENGTH": [float("inf")]}),
    ("InvalidStrength", {"STRENGTH": [1e9]}),
    ("InvalidThreshold", {"THRESHOLD": [2.0]}),
    ("InvalidThreshold", {"THRESHOLD": [float("nan")]}),
    ("NoChannelLeft", {"THRESHOLD": [1.0]}),
    ("SameTexts", {"TARGET": [b"a face"]}),
    ("EditsMismatch", {"TARGET": [b"a sad face", b"a happy face"]}),
    ("UnknownFormat", {"FORMAT": [b"EXE"]}),
    ("UnknownFormat", {"QUALITY": [1000]}),
]


@pytest.mark.parametrize("name, change", [*PHOTOS, *EDITS])
def test_bad_input_is_a_named_invalid_argument_and_the_server_keeps_serving(infer, name, change):
    # Twice, because the second result could come from a cache.
    for _ in range(2):
        status, message = infer("edit_photo", **{"PHOTO": [PNG]} | TEXTS | change)
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert f"{name}: " in message
    assert infer("edit_photo", PHOTO=[PNG], **TEXTS)["CHANNELS"] > 0


def test_a_tensor_of_a_wrong_shape_is_invalid_argument(infer):
    status, _ = infer("edit", W_PLUS=np.zeros((3, 512)), **TEXTS)
    assert status == "StatusCode.INVALID_ARGUMENT"


def test_a_domain_without_networks_for_features_says_so(infer):
    latent = {"W_PLUS": np.zeros((14, 512)), "CROP": [PNG]}
    for fidelity in (b"features", b"pixels"):
        status, message = infer("edit", **latent, **TEXTS, FIDELITY=[fidelity])
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "UnknownFidelity: " in message and "latent" in message
    assert infer("edit", **latent, **TEXTS, FIDELITY=[b"latent"])["CHANNELS"] > 0


def test_a_strength_of_zero_gives_the_inversion(infer):
    latent = infer("invert", PHOTO=[PNG])["W_PLUS"]
    zero = infer("edit", W_PLUS=latent, **TEXTS | {"STRENGTH": [0.0], "FORMAT": [b"PNG"]})
    size = len(infer("direction", **TEXTS)["DELTA"])
    plain = infer("stylegan2", W_PLUS=latent, DELTA=np.zeros(size))
    assert np.array_equal(decode_pixels(zero["PICTURE"][0]), plain["IMAGE"])


def test_several_edits_are_the_sum_of_their_offsets(infer):
    one = infer("direction", **TEXTS)
    other = infer("direction", **TEXTS | {"TARGET": [b"a face with a beard"], "STRENGTH": [-2.0]})
    both = infer(
        "direction",
        NEUTRAL=[b"a face", b"a face"],
        TARGET=[b"a sad face", b"a face with a beard"],
        STRENGTH=[5.0, -2.0],
        THRESHOLD=[0.1, 0.1],
    )
    assert np.allclose(both["DELTA"], one["DELTA"] + other["DELTA"], atol=1e-6)
    assert list(both["CHANNELS"]) == [*one["CHANNELS"], *other["CHANNELS"]]


def test_a_batch_of_photos_gives_the_same_results_as_single_photos(server):
    with triton.InferenceServerClient(server.grpc_url) as connection:

        def invert(photos):
            array = np.array([[photo] for photo in photos], np.object_)
            entry = triton.InferInput("PHOTO", list(array.shape), "BYTES")
            entry.set_data_from_numpy(array)
            return connection.infer("invert", [entry]).as_numpy("W_PLUS")

        photos = [PNG, build_png(90, 40), JPEG]
        together = invert(photos)
        for photo, latent in zip(photos, together, strict=True):
            assert np.abs(invert([photo])[0] - latent).max() < 1e-4
