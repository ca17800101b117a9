"""`styleclip-export directions`: files of every form, fits of latents, and what is refused."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from checkpoint_files import safetensors
from hostile_files import DangerousCall
from paths import ROOT
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_export.cli import run
from styleclip_export.convert import conversion
from styleclip_export.directions.store import DirectionStore
from styleclip_networks.mapper import LatentMapper
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.named_directions import load_directions

AVATARS = ROOT / "model_repository/avatars"
RNG = np.random.default_rng(1)
DIRECTION = RNG.standard_normal((1, 512)).astype(np.float32) / 20
LATENT = RNG.standard_normal((14, 512)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "avatars"
    shutil.copytree(AVATARS, folder)
    content = json.loads((folder / "domain.json").read_text("utf-8"))
    content.pop("directions", None)
    (folder / "domain.json").write_text(json.dumps(content), "utf-8")
    shutil.rmtree(folder / "directions", ignore_errors=True)
    return folder


@pytest.fixture
def domain(original, tmp_path, capsys):
    """A copy of the avatars without directions; `command` runs `directions` on it."""
    repository = tmp_path / "repository"
    shutil.copytree(original, repository / "avatars", copy_function=shutil.os.link)
    folder = repository / "avatars"

    def command(*arguments):
        code = run(["directions", *map(str, arguments), "--repository", str(repository)])
        output = capsys.readouterr()
        return code, output.out, output.err

    def listed():
        return Domain.from_json((folder / "domain.json").read_text("utf-8"))

    def load():
        return load_directions(folder, listed())

    return SimpleNamespace(folder=folder, command=command, listed=listed, load=load)


def render(w_plus, delta):
    session = onnxruntime.InferenceSession(str(AVATARS / "stylegan2/1/model.onnx"))
    inputs = {"W_PLUS": w_plus[np.newaxis], "DELTA": delta[np.newaxis]}
    return session.run(None, inputs)[0].astype(int)


def test_a_direction_moves_the_image_as_it_moves_the_latent(domain, tmp_path):
    np.save(tmp_path / "age.npy", DIRECTION)
    code, output, _ = domain.command("add", "avatars", tmp_path / "age.npy", "--range", -3, 4)
    assert (code, output) == (
        0,
        "age.npy: direction age (Age), -3 to 4\nrestart the server to serve it\n",
    )
    offset = domain.load().constant_offset(Edit(direction="age", strength=3))
    shifted = render(LATENT + 3 * DIRECTION, np.zeros_like(offset))
    difference = np.abs(render(LATENT, offset) - shifted)
    assert difference.max() <= 1 and (render(LATENT, 0 * offset) != shifted).mean() > 0.2
    config = (domain.folder / "stylegan2/config.pbtxt").read_text("utf-8")
    assert r"\"directions\": [{\"high\": 4.0, \"low\": -3.0, \"name\": \"age\"" in config


FORMATS = {
    "a.npy": lambda path: np.save(path, DIRECTION),
    "flat.npy": lambda path: np.save(path, DIRECTION[0].astype(np.float64)),
    "rows.npy": lambda path: np.save(path, np.repeat(DIRECTION, 14, 0)),
    "batch.npy": lambda path: np.save(path, np.repeat(DIRECTION, 14, 0)[np.newaxis]),
    "a.npz": lambda path: np.savez(path, boundary=DIRECTION, other=np.ones(3, np.float32)),
    "a.pt": lambda path: torch.save(torch.from_numpy(DIRECTION), path),
    "legacy.pt": lambda path: torch.save(
        torch.from_numpy(DIRECTION), path, _use_new_zipfile_serialization=False
    ),
    "named.pt": lambda path: torch.save({"age": torch.from_numpy(DIRECTION)}, path),
    "a.safetensors": lambda path: path.write_bytes(
        safetensors({"direction": torch.from_numpy(DIRECTION)})
    ),
}


def test_every_format_gives_the_same_direction(domain, tmp_path):
    paths = [tmp_path / name for name in FORMATS]
    for path in paths:
        FORMATS[path.name](path)
    for path in paths:
        code, _, error = domain.command(
            "add", "avatars", path, "--name", path.name.replace(".", "-")
        )
        assert (code, error) == (0, "")
    first, *others = domain.load().offsets.values()
    assert len(others) == len(FORMATS) - 1 and first.any()
    for offset in others:
        np.testing.assert_allclose(offset, first, atol=1e-7)


def test_the_offset_of_a_served_direction_is_read_as_one_in_stylespace(domain, tmp_path):
    offset = RNG.standard_normal(domain.listed().style_size).astype(np.float32)
    np.savez(tmp_path / "brows.npz", offset=offset)
    assert domain.command("add", "avatars", tmp_path / "brows.npz", "--scale", -2)[0] == 0
    np.testing.assert_array_equal(domain.load().offsets["brows"], -2 * offset)


@pytest.mark.parametrize("suffix", ["pt", "npz"])
def test_a_component_of_ganspace_moves_only_its_layers(domain, tmp_path, suffix):
    components = RNG.standard_normal((6, 1, 512)).astype(np.float32)
    deviations = np.linspace(1, 2, 6, dtype=np.float32)
    path = tmp_path / f"pca.{suffix}"
    if suffix == "pt":
        arrays = {"mean": np.zeros((1, 512), np.float32), "comp": components, "std": deviations}
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        np.savez(path, lat_comp=components, lat_stdev=deviations, act_comp=np.zeros((2, 2)))
    options = ["--name", "eyes", "--component", 4, "--layers", "2:4"]
    assert domain.command("add", "avatars", path, *options)[0] == 0
    (direction,) = domain.listed().directions
    assert (direction.low, direction.high) == (-20, 20)
    offset = domain.load().constant_offset(Edit(direction="eyes", strength=2))
    shifted = LATENT.copy()
    shifted[2:4] += 2 * components[4] * deviations[4]
    assert np.abs(render(LATENT, offset) - render(shifted, 0 * offset)).max() <= 1


def official_mapper(groups):
    mapper = LatentMapper(groups)
    names = {"coarse": "course", "medium": "medium", "fine": "fine"}  # the official spelling
    state = {}
    for name, value in mapper.state_dict().items():
        group, rest = name.split(".", 1)
        state[f"mapper.{names[group]}_mapping.mapping.{rest}"] = value
    options = {"no_coarse_mapper": "coarse" not in groups, "description": "mohawk hairstyle"}
    decoder = {"decoder.conv1.conv.weight": torch.zeros(3)}  # some have the generator too
    return mapper, {"state_dict": state | decoder, "opts": options}


@pytest.mark.parametrize("groups", [("coarse", "medium", "fine"), ("coarse", "medium"), ("fine",)])
def test_a_latent_mapper_maps_each_face_as_in_pytorch(domain, tmp_path, groups):
    mapper, checkpoint = official_mapper(groups)
    torch.save(checkpoint, tmp_path / "mohawk.pt")
    code, output, _ = domain.command("add", "avatars", tmp_path / "mohawk.pt")
    assert code == 0 and "mapper mohawk (Mohawk), -1 to 2" in output
    named = domain.load()
    offset = named.face_offset(Edit(direction="mohawk", strength=1), LATENT)
    with torch.no_grad():
        mapped = LATENT + 0.1 * mapper(torch.from_numpy(LATENT[np.newaxis]))[0].numpy()
    assert np.abs(render(LATENT, offset) - render(mapped, 0 * offset)).max() <= 1
    domain.command("remove", "avatars", "mohawk")
    assert not domain.listed().directions and not (domain.folder / "affine.npz").exists()


def write_labeled_latents(folder, towards, count=60):
    """Write latents of two classes that differ along `towards`, (14, 512)."""
    for name, sign in (("without", -1), ("with", 1)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            latent = 0.2 * RNG.standard_normal((14, 512)) + sign * towards
            np.savez(folder / name / f"{i}.npz", w_plus=latent.astype(np.float32), quad=np.ones(8))


@pytest.mark.parametrize("classifier", ["svm", "logistic"])
def test_a_boundary_is_fitted_to_two_folders_of_latents(domain, tmp_path, classifier):
    towards = RNG.standard_normal((14, 512)) / 40
    write_labeled_latents(tmp_path / "latents", towards)
    code, output, error = domain.command(
        "fit", "avatars", tmp_path / "latents", "--towards", "with", "--name", "hat",
        "--classifier", classifier,
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert "120 latents, 60 of them with" in output
    assert "fitted to 96 latents, accuracy 100.0% on 24 held out" in output
    with np.load(domain.folder / "directions/hat.npz") as file:
        direction = file["w_plus"]
    cosine = (direction * towards).sum() / np.linalg.norm(direction) / np.linalg.norm(towards)
    assert cosine > 0.5
    assert domain.command("list", "avatars")[1] == "direction hat (Hat), -5 to 5\n"


def test_a_boundary_is_fitted_to_scores_in_a_table(domain, tmp_path):
    towards = RNG.standard_normal(512) / 20
    scores = RNG.uniform(-1, 1, 200)
    latents = 0.2 * RNG.standard_normal((200, 512)) + scores[:, np.newaxis] * towards
    np.save(tmp_path / "latents.npy", latents.astype(np.float32))
    with (tmp_path / "scores.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["age", "empty"])
        writer.writerows([score if i else "", ""] for i, score in enumerate(scores))
    code, output, error = domain.command(
        "fit", "avatars", tmp_path / "latents.npy", "--labels", tmp_path / "scores.csv",
        "--towards", "age", "--name", "age", "--share", 0.25,
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert "100 latents, 50 of them age" in output  # a quarter of 199 at each end
    with np.load(domain.folder / "directions/age.npz") as file:
        direction = file["w_plus"]
    assert direction.shape == (14, 512) and (direction == direction[0]).all()
    assert direction[0] @ towards > 0


def write_hostile_file(path):
    torch.save({"direction": DangerousCall(open, str(path.parent / "executed"), "w")}, path)


REFUSALS = {
    "there.npy": (lambda path: None, [], "is not there"),
    "text.npy": (lambda path: path.write_text("<html>"), [], "looks like a web page"),
    "shape.npy": (lambda path: np.save(path, np.ones(100, np.float32)), [], "(512,), (14, 512)"),
    "zero.npy": (lambda path: np.save(path, np.zeros(512, np.float32)), [], "all zero"),
    "nan.npy": (lambda path: np.save(path, np.full(512, np.nan, np.float32)), [], "not finite"),
    "int.npy": (lambda path: np.save(path, np.ones(512, int)), [], "int64"),
    "object.npy": (lambda path: np.save(path, np.array([{}])), [], "do not fit"),
    "many.npz": (lambda path: np.savez(path, a=np.ones(2), b=np.ones(3)), [], "arrays a, b"),
    "bad.safetensors": (lambda path: path.write_bytes(b"\xff" * 64), [], "was expected"),
    "hostile.pt": (write_hostile_file, [], "refused"),
    "a b!.npy": (lambda path: np.save(path, DIRECTION), [], "is not a valid name"),
    "layers.npy": (lambda path: np.save(path, DIRECTION), ["--layers", "7:20"], "within 0:14"),
    "range.npy": (lambda path: np.save(path, DIRECTION), ["--range", 4, -4], "the lower first"),
    "one.npy": (lambda path: np.save(path, DIRECTION), ["--component", 1], "leave out --component"),
    "stylespace.pt": (
        lambda path: torch.save({"mapper.mapper_0.mapping.1.bias": torch.ones(2)}, path),
        [],
        "not a layer of a mapper in W+",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_file_without_a_direction_is_refused_and_changes_nothing(domain, tmp_path, name):
    write, options, message = REFUSALS[name]
    write(tmp_path / name)
    before = (domain.folder / "domain.json").read_bytes()
    code, output, error = domain.command("add", "avatars", tmp_path / name, *options)
    assert (code, output) == (1, "") and error.count("\n") == 1 and message in error
    assert (domain.folder / "domain.json").read_bytes() == before
    assert not (domain.folder / "directions").exists() and not (tmp_path / "executed").exists()


def test_labels_that_cannot_be_fitted_are_refused(domain, tmp_path):
    write_labeled_latents(tmp_path / "few", np.ones((14, 512)), count=2)
    (tmp_path / "none").mkdir()
    for folder, towards, message in (
        ("few", "with", "at least 4"), ("few", "x", "without"), ("none", "x", "none: two")
    ):  # fmt: skip
        code, _, error = domain.command(
            "fit", "avatars", tmp_path / folder, "--towards", towards, "--name", "hat"
        )
        assert code == 1 and message in error and error.count("\n") == 1


def test_a_name_that_is_taken_is_kept_unless_it_is_to_be_replaced(domain, tmp_path):
    np.save(tmp_path / "age.npy", DIRECTION)
    assert domain.command("add", "avatars", tmp_path / "age.npy")[0] == 0
    code, _, error = domain.command("add", "avatars", tmp_path / "age.npy", "--scale", 2)
    assert code == 1 and "--replace" in error
    before = domain.load().offsets["age"]
    options = ["--scale", 2, "--replace"]
    assert domain.command("add", "avatars", tmp_path / "age.npy", *options)[0] == 0
    np.testing.assert_allclose(domain.load().offsets["age"], 2 * before, rtol=1e-6)
    assert len(domain.listed().directions) == 1
    code, _, error = domain.command("remove", "avatars", "smile")
    assert code == 1 and "it has: age" in error


def test_the_published_files_are_added_by_their_names(tmp_path, original, capsys):
    folder = tmp_path / "repository/ffhq"
    shutil.copytree(original, folder, copy_function=shutil.os.link)
    content = json.loads((folder / "domain.json").read_text("utf-8")) | {"name": "ffhq"}
    (folder / "domain.json").unlink()
    (folder / "domain.json").write_text(json.dumps(content), "utf-8")
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(torch.from_numpy(DIRECTION), weights / "age.pt")
    components = torch.randn(80, 1, 512)
    pca = {"mean": torch.zeros(1, 512), "comp": components, "std": torch.ones(80)}
    torch.save(pca, weights / "ffhq_pca.pt")
    torch.save(official_mapper(("coarse", "medium"))[1], weights / "afro.pt")
    arguments = ["directions", "add", "ffhq", "--weights", str(weights)]
    arguments += ["--repository", str(folder.parent)]
    assert run(arguments) == 0
    domain = Domain.from_json((folder / "domain.json").read_text("utf-8"))
    names = ["age", "eye_openness", "happiness", "trimmed_beard", "white_hair", "lipstick", "afro"]
    assert [direction.name for direction in domain.directions] == names
    store = DirectionStore(folder)
    with np.load(store.folder / "directions" / "white_hair.npz") as file:
        w_plus = file["w_plus"]
    assert torch.equal(torch.from_numpy(-w_plus[7]), components[57, 0])
    assert "afro.pt: direction afro" in capsys.readouterr().out
    before = load_directions(folder, domain).offsets
    (folder / "affine.npz").unlink()
    store.recompute()  # as after another conversion
    for name, offset in load_directions(folder, domain).offsets.items():
        np.testing.assert_array_equal(offset, before[name])


def test_another_conversion_keeps_the_list_of_directions(domain, tmp_path):
    np.save(tmp_path / "age.npy", DIRECTION)
    assert domain.command("add", "avatars", tmp_path / "age.npy")[0] == 0
    before = domain.listed()
    defaults = {"neutral": "a face", "strength": 4.0, "threshold": 0.1}
    description = {
        "name": "avatars", "title": "again", "align": False, "defaults": defaults, "presets": [],
        "license": "none",
    }  # fmt: skip
    sizes = {r: before.style_channels[0] if r == 4 else 8 for r in (4, 8, 16, 32)}
    conversion.write_domain_json(domain.folder, description, Generator(32, sizes))
    assert domain.listed().title == "again" and domain.listed().num_latents == 8
    assert domain.listed().directions == before.directions
