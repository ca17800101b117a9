"""StyleCLIP's fs3.npy and S_mean_std are taken if they belong to the generator, and only then."""

import itertools
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from checkpoint_files import e4e_checkpoint
from small_networks import small_clip, small_encoder, small_generator
from styleclip_export import cli
from styleclip_export.checkpoints import styleclip_npy
from styleclip_export.errors import StatisticsError
from styleclip_export.statistics import estimate
from styleclip_export.statistics.fs3 import Fs3Settings, fs3_channels
from styleclip_export.statistics.job import StatisticsJob
from styleclip_export.statistics.moments import style_moments
from styleclip_export.statistics.published import read_published
from styleclip_networks.latents import truncate_latents
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.style_statistics import convolution_channels, load_statistics

WIDTH = 24
SMALL_IMAGES = {"image_resolution": 32, "vision_patch_size": 16}


def build_generator(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return small_generator(channel_base=256, channel_max=16, w_dim=512).eval()


@pytest.fixture(scope="module")
def generator():
    return build_generator(1)


@pytest.fixture(scope="module")
def w_center(generator):
    return torch.from_numpy(style_moments(generator, 20_000, seed=7)[2])


@torch.no_grad()
def moments(generator, w_center, psi=0.7, samples=20_000):
    """Mean and deviation of each layer, as StyleCLIP's GetCode.py samples them."""
    z = torch.randn(samples, generator.w_dim, generator=torch.Generator().manual_seed(5))
    w_plus = generator.mapping(z)[:, None].expand(-1, generator.num_latents, -1)
    styles = generator.affine(truncate_latents(w_plus, w_center, psi))
    return [s.numpy().mean(0) for s in styles], [s.numpy().std(0) for s in styles]


@pytest.fixture(scope="module")
def published(generator, w_center, tmp_path_factory):
    """A folder with both files."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "S_mean_std").write_bytes(pickle.dumps(list(moments(generator, w_center)), 4))
    fs3 = np.random.default_rng(0).standard_normal((len(fs3_channels(generator)), WIDTH))
    np.save(folder / "fs3.npy", (fs3 / np.linalg.norm(fs3, axis=1)[:, None]).astype(np.float32))
    return folder


def read(folder, generator, w_center, width=WIDTH):
    return read_published(folder / "fs3.npy", folder / "S_mean_std", generator, w_center, width)


def test_files_of_the_generator_are_taken_as_they_are(published, generator, w_center):
    statistics = read(published, generator, w_center)
    moments_read = styleclip_npy.read_s_mean_std(published / "S_mean_std")
    rows = convolution_channels(generator.style_channels)
    for name, values in (("mean", moments_read.means), ("std", moments_read.deviations)):
        same = statistics.arrays[f"style_{name}"][rows] == np.concatenate(values)[rows]
        assert same.all()
    fs3 = np.load(published / "fs3.npy")
    assert np.array_equal(statistics.arrays["fs3"], fs3.astype(np.float16))
    assert abs(statistics.provenance["largest"]["truncation"] - 0.7) < 0.02
    assert set(statistics.provenance["sources"]) == {"fs3.npy", "S_mean_std"}


def test_files_of_another_generator_of_the_same_sizes_are_refused(published, w_center):
    with pytest.raises(StatisticsError, match=r"is of another generator: the .* differs by"):
        read(published, build_generator(2), w_center)


def test_one_exchanged_layer_is_named(published, generator, w_center, tmp_path):
    means, deviations = moments(generator, w_center)
    means[5], means[6] = means[6], means[5]
    deviations[5], deviations[6] = deviations[6], deviations[5]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps([means, deviations], 4))
    (tmp_path / "fs3.npy").write_bytes((published / "fs3.npy").read_bytes())
    name = generator.layers[5].styleclip_name
    with pytest.raises(StatisticsError, match="another generator") as caught:
        read(tmp_path, generator, w_center)
    assert name in str(caught.value) or generator.layers[6].styleclip_name in str(caught.value)


def test_other_layers_are_refused_with_the_first_that_differs(generator, w_center, tmp_path):
    wider = Generator(32, {**generator.channels, 32: 12})
    parts = [
        [np.ones(c, np.float32) for c in wider.style_channels],
        [np.ones(c, np.float32) for c in wider.style_channels],
    ]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps(parts, 4))
    np.save(tmp_path / "fs3.npy", np.ones((3, WIDTH), np.float32))
    with pytest.raises(StatisticsError, match=r"they differ from layer \d+ \("):
        read(tmp_path, generator, w_center)


def test_fs3_of_other_rows_or_another_clip_is_refused(published, generator, w_center, tmp_path):
    (tmp_path / "S_mean_std").write_bytes((published / "S_mean_std").read_bytes())
    fs3 = np.load(published / "fs3.npy")
    for wrong, reason in ((fs3[:-1], "rows of"), (2 * fs3, "has the length 2")):
        np.save(tmp_path / "fs3.npy", wrong)
        with pytest.raises(StatisticsError, match=reason):
            read(tmp_path, generator, w_center)
    with pytest.raises(StatisticsError, match="of 512 are needed"):
        read(published, generator, w_center, 512)


def test_the_time_is_measured_before_the_work(generator, tmp_path, monkeypatch):
    """By a clock that goes on by a second between two looks, as a row in one image takes."""
    seconds = itertools.count()
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    clip = small_clip(WIDTH, **SMALL_IMAGES).eval()
    job = StatisticsJob(generator, clip, tmp_path, Fs3Settings(num_images=5), samples=10)
    measured = estimate.estimate(job)
    assert measured.seconds == 5 * len(fs3_channels(generator)) and measured.channels == 3
    assert next(seconds) == 2 * measured.channels + 1  # one more: the warm-up
    assert not list(tmp_path.iterdir())
    assert str(estimate.Estimate(26 * 86_400, 4)) == "26.0 days"


@pytest.fixture
def weights(published, generator, w_center):
    """The folder of a domain that has both files."""
    encoder = small_encoder(generator.num_latents, 512)
    average = w_center.repeat(generator.num_latents, 1)
    content = e4e_checkpoint(
        encoder.state_dict(), generator.state_dict(), average, {"encoder_type": "Encoder4Editing"}
    )
    torch.save(content, published / "e4e_x.pt")
    torch.save(small_clip(WIDTH, **SMALL_IMAGES).state_dict(), published / "ViT-x.pt")
    return published


def test_convert_and_stats_write_the_published_statistics(weights, generator, tmp_path, capsys):
    where = ["--weights", str(weights), "--repository", str(tmp_path)]
    assert cli.run(["convert", "ffhq", *where, "--no-half"]) == 0
    printed = capsys.readouterr().out
    assert "belong to the generator" in printed and "next: make serve DOMAIN=ffhq" in printed
    statistics = load_statistics(tmp_path / "ffhq", generator.style_channels)
    assert statistics.fs3.shape == (len(fs3_channels(generator)), WIDTH)
    path = tmp_path / "ffhq" / "statistics.npz"
    with np.load(path) as data:
        assert json.loads(str(data["provenance"]))["origin"] == "published files"
    path.unlink()
    assert cli.run(["stats", "ffhq", *where]) == 0
    assert "written from the published files" in capsys.readouterr().out
    with np.load(path) as data:
        assert json.loads(str(data["provenance"]))["origin"] == "published files"
    small = ["--samples", "50", "--images", "2", "--device", "cpu"]
    assert cli.run(["stats", "ffhq", *where, "--compute", *small]) == 0
    with np.load(path) as data:
        assert json.loads(str(data["provenance"]))["origin"] == "computed"


def test_wrong_statistics_stop_the_conversion_before_it_starts(weights, tmp_path, capsys):
    other = tmp_path / "S_mean_std"
    lists = [list(map(np.ones, (3, 4))), list(map(np.ones, (3, 4)))]
    other.write_bytes(pickle.dumps(lists, 4))
    where = ["--weights", str(weights), "--repository", str(tmp_path / "served")]
    assert cli.run(["convert", "ffhq", *where, "--statistics", str(other)]) == 1
    assert "StatisticsError" in capsys.readouterr().err
    assert not list(Path(tmp_path).rglob("model.onnx"))
