"""StyleSpace statistics: what they are, and that a job gives the same numbers however it is run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from small_networks import small_clip, small_generator
from styleclip_export.errors import StatisticsError
from styleclip_export.statistics.fs3 import (
    Fs3Settings,
    channel_direction,
    fs3_channels,
    fs3_rows,
)
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.job import StatisticsJob
from styleclip_export.statistics.moments import style_moments

SETTINGS = Fs3Settings(num_images=5, batch=3)
SAMPLES = 500


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's sums depend on the number of threads, in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_generator():
    return small_generator(channel_base=128, channel_max=8, w_dim=16)


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = build_generator()
        clip = small_clip(24, image_resolution=16, vision_patch_size=8, vocab_size=100)
    return generator.eval(), clip.eval()


def new_job(networks, work, settings=SETTINGS, **options):
    return StatisticsJob(*networks, work, settings, samples=SAMPLES, **options)


def merge_and_load(job):
    """The arrays of statistics.npz."""
    job.merge(job.work / "statistics.npz")
    return load_npz(job.work / "statistics.npz")


def load_npz(path):
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def complete(networks, tmp_path_factory):
    job = new_job(networks, tmp_path_factory.mktemp("complete"))
    job.compute_part()
    return merge_and_load(job)


def arrays_equal(one, other):
    return all(np.array_equal(one[name], other[name]) for name in other)


def test_every_row_matches_the_definition(networks, complete):
    generator, clip = networks
    encode = ImageFeatures(clip)
    rng = torch.Generator().manual_seed(SETTINGS.seed)
    z = torch.randn(SETTINGS.num_images, 16, generator=rng)
    offsets = np.cumsum([0, *generator.style_channels])
    with torch.no_grad():
        w = generator.mapping(z)
        w_avg = torch.from_numpy(complete["w_avg"])
        w = w_avg + 0.7 * (w - w_avg)
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        for row, (index, channel) in enumerate(fs3_channels(generator)):
            if channel != 2:
                continue
            mean = complete["style_mean"][offsets[index] + channel]
            std = complete["style_std"][offsets[index] + channel]
            ends = []
            for sign in (-1, 1):
                edited = [s.clone() for s in styles]
                edited[index][:, channel] = float(mean + sign * SETTINGS.alpha * std)
                ends.append(encode(generator.synthesis(edited).clamp(-1, 1)))
            expected, _ = channel_direction(torch.stack(ends, 1)[None])
            assert np.abs(complete["fs3"][row] - expected[0].numpy()).max() < 2e-3
    convolutions = [layer.channels for layer in generator.layers if not layer.to_rgb]
    assert len(complete["fs3"]) == sum(convolutions)


def test_mean_and_deviation_are_those_of_latents_with_styleclips_truncation(networks, complete):
    """As GetCode.py samples them: every layer gets w_avg + 0.7 (w - w_avg)."""
    generator = networks[0]
    z = torch.randn(SAMPLES, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        w = generator.mapping(z)
        w = w.mean(0) + 0.7 * (w - w.mean(0))
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
    s = generator.flatten_styles(styles).numpy()
    assert np.abs(complete["style_mean"] - s.mean(0)).max() < 1e-5
    assert np.abs(complete["style_std"] - s.std(0)).max() < 1e-5


def test_an_interrupted_job_continues_and_gives_the_same_numbers(networks, complete, tmp_path):
    class Killed(Exception):
        pass

    def kill_at(row):
        def progress(done, total):
            if done == row:
                raise Killed

        return progress

    for row in (10, 11, 40):
        with pytest.raises(Killed):
            new_job(networks, tmp_path).compute_part(progress=kill_at(row))
    seen = []
    job = new_job(networks, tmp_path)
    job.compute_part(progress=lambda done, total: seen.append(done))
    assert seen[0] == 40  # nothing is computed twice
    assert arrays_equal(merge_and_load(job), complete)


def test_merged_parts_give_the_same_numbers(networks, complete, tmp_path):
    for part in (2, 0, 1):
        new_job(networks, tmp_path, parts=3).compute_part(part)
    job = new_job(networks, tmp_path, parts=3)
    done, rows = job.merge(tmp_path / "statistics.npz")
    assert done == rows
    assert arrays_equal(merge_and_load(job), complete)


def test_a_ray_cluster_gives_the_same_numbers_and_resumes(networks, complete, tmp_path):
    from styleclip_export.statistics.ray_job import compute_parts

    job = new_job(networks, tmp_path, parts=3)
    job.compute_part(1)
    seen = []
    compute_parts(job, device="cpu", progress=lambda done, total: seen.append(done))
    assert seen[0] == len(job.rows(1)) and len(seen) == 3
    assert arrays_equal(merge_and_load(job), complete)


def test_a_trial_run_leaves_the_other_rows_zero(networks, complete, tmp_path):
    job = new_job(networks, tmp_path, channels=6)
    job.compute_part()
    assert job.merge(tmp_path / "statistics.npz") == (6, len(complete["fs3"]))
    trial = load_npz(tmp_path / "statistics.npz")["fs3"]
    assert np.array_equal(trial[:6], complete["fs3"][:6]) and not trial[6:].any()


def test_parts_of_other_networks_are_refused(networks, tmp_path):
    job = new_job(networks, tmp_path, channels=2)
    job.compute_part()
    other = build_generator().eval()
    with pytest.raises(StatisticsError, match="other networks"):
        new_job((other, networks[1]), tmp_path, channels=2).compute_part()
    job.path(0).write_bytes(b"damaged")
    with pytest.raises(StatisticsError, match="damaged"):
        job.compute_part()


def test_a_preview_changes_only_rows_up_to_its_resolution(networks, complete, tmp_path):
    generator = networks[0]
    job = new_job(networks, tmp_path, replace(SETTINGS, preview=16))
    job.compute_part()
    fs3 = load_npz(job.path(0))["fs3"]
    resolutions = [generator.layers[index].resolution for index, _ in fs3_channels(generator)]
    above = np.array(resolutions) > 16
    # Complete statistics are stored in float16.
    assert np.abs(fs3[above] - complete["fs3"][above]).max() < 2e-3
    cosines = (fs3[~above] * complete["fs3"][~above].astype(np.float32)).sum(1)
    assert 0.7 < np.median(cosines) < 0.9999


def test_a_preview_must_be_a_resolution_of_the_generator(networks, tmp_path):
    with pytest.raises(ValueError, match="one of 8, 16, 32"):
        new_job(networks, tmp_path, replace(SETTINGS, preview=64)).compute_part()


def test_the_servers_kernels_give_the_same_directions(networks):
    """Interpreted, in float16, a row of the first and of the last layer."""
    generator, clip = networks
    mean, std, _ = style_moments(generator, SAMPLES)
    requested = {1, len(fs3_channels(generator)) - 1}
    in_pytorch = Fs3Settings(num_images=2, batch=4)
    on_kernels = replace(in_pytorch, dtype=torch.float16, use_kernels=True)
    directions = []
    for settings in (in_pytorch, on_kernels):
        rows = list(fs3_rows(generator, ImageFeatures(clip), mean, std, settings, requested))
        assert [r.row for r in rows] == sorted(requested)
        directions.append(np.array([r.direction for r in rows]))
    assert ((directions[0] * directions[1]).sum(1) > 0.995).all()
