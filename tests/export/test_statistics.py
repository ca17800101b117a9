"""StyleSpace statistics as a job: resumable, in parts, the same numbers however it is run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from styleclip_export.errors import StatisticsError
from styleclip_export.statistics import job
from styleclip_export.statistics.fs3 import (
    Fs3Rule,
    channel_direction,
    fs3_rows,
    num_rows,
    style_moments,
)
from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import Generator, channels_by_base

RULE = Fs3Rule(num_images=5, batch=3)
SAMPLES = 500


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's sums depend on the number of threads, in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = Generator(32, channels_by_base(32, 128, 8), w_dim=16, mapping_layers=2)
        clip = CLIP(
            24,
            image_resolution=16,
            vision_patch_size=8,
            vision_width=64,
            vision_layers=1,
            vision_heads=1,
            vocab_size=100,
            transformer_width=64,
            transformer_layers=1,
            transformer_heads=1,
        )
    return generator.eval(), clip.eval()


def run(networks, work, **options):
    return job.compute_part(*networks, work, RULE, samples=SAMPLES, **options)


def read(path):
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    work = tmp_path_factory.mktemp("whole")
    job.merge(work, [run(networks, work)], work / "statistics.npz")
    return read(work / "statistics.npz")


def test_every_row_is_what_the_definition_gives(networks, whole):
    generator, clip = networks
    encode = job.image_encoder(clip)
    z = torch.randn(RULE.num_images, 16, generator=torch.Generator().manual_seed(RULE.seed))
    with torch.no_grad():
        w = generator.mapping(z)
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        row = 0
        offset = 0
        for index, layer in enumerate(generator.layers):
            for channel in range(layer.channels) if not layer.to_rgb else ():
                if channel == 2:
                    mean = whole["style_mean"][offset + channel]
                    std = whole["style_std"][offset + channel]
                    ends = []
                    for sign in (-1, 1):
                        edited = [s.clone() for s in styles]
                        edited[index][:, channel] = float(mean + sign * RULE.alpha * std)
                        ends.append(encode(generator.synthesis(edited).clamp(-1, 1)))
                    expected, _ = channel_direction(torch.stack(ends, 1)[None])
                    assert np.abs(whole["fs3"][row] - expected[0].numpy()).max() < 2e-3
                row += 1
            offset += layer.channels
    assert row == len(whole["fs3"]) == num_rows(generator)


def test_an_interrupted_job_goes_on_and_gives_the_same_numbers(networks, whole, tmp_path):
    class Killed(Exception):
        pass

    def kill_at(row):
        def progress(done, total):
            if done == row:
                raise Killed

        return progress

    for row in (10, 11, 40):
        with pytest.raises(Killed):
            run(networks, tmp_path, progress=kill_at(row))
    seen = []
    path = run(networks, tmp_path, progress=lambda done, total: seen.append(done))
    assert seen[0] == 40  # nothing is computed twice
    job.merge(tmp_path, [path], tmp_path / "statistics.npz")
    again = read(tmp_path / "statistics.npz")
    assert all(np.array_equal(again[name], whole[name]) for name in whole)


def test_parts_join_to_the_same_numbers(networks, whole, tmp_path):
    files = [run(networks, tmp_path, part=k, parts=3) for k in (2, 0, 1)]
    done, rows = job.merge(tmp_path, files, tmp_path / "statistics.npz")
    assert done == rows
    joined = read(tmp_path / "statistics.npz")
    assert all(np.array_equal(joined[name], whole[name]) for name in whole)


def test_a_ray_cluster_gives_the_same_numbers_and_goes_on_where_it_was(networks, whole, tmp_path):
    from styleclip_export.statistics.ray_job import compute_parts

    run(networks, tmp_path, part=1, parts=3)
    seen = []
    options = {"samples": SAMPLES, "parts": 3, "device": "cpu"}
    files = compute_parts(*networks, tmp_path, RULE, **options,
                          progress=lambda done, total: seen.append(done))  # fmt: skip
    assert seen[0] == len(job.rows_of_part(networks[0], 1, 3)) and len(seen) == 3
    job.merge(tmp_path, files, tmp_path / "statistics.npz")
    joined = read(tmp_path / "statistics.npz")
    assert all(np.array_equal(joined[name], whole[name]) for name in whole)


def test_a_trial_of_a_few_channels_leaves_the_others_still(networks, whole, tmp_path):
    path = run(networks, tmp_path, channels=6)
    done, rows = job.merge(tmp_path, [path], tmp_path / "statistics.npz")
    assert (done, rows) == (6, len(whole["fs3"]))
    trial = read(tmp_path / "statistics.npz")["fs3"]
    assert np.array_equal(trial[:6], whole["fs3"][:6]) and not trial[6:].any()


def test_parts_of_other_networks_are_refused(networks, tmp_path):
    run(networks, tmp_path, channels=2)
    other = Generator(32, channels_by_base(32, 128, 8), w_dim=16, mapping_layers=2).eval()
    with pytest.raises(StatisticsError, match="other networks"):
        run((other, networks[1]), tmp_path, channels=2)
    job.part_path(tmp_path, 0, 1).write_bytes(b"damaged")
    with pytest.raises(StatisticsError, match="damaged"):
        run(networks, tmp_path, channels=2)


def test_a_preview_changes_little_and_nothing_above_it(networks, whole, tmp_path):
    rule = Fs3Rule(num_images=5, batch=3, preview=16)
    path = job.compute_part(*networks, tmp_path, rule, samples=SAMPLES)
    found = read(path)["fs3"]
    above = [row for row, layer in enumerate(row_layers(networks[0])) if layer.resolution > 16]
    below = [row for row in range(len(found)) if row not in above]
    # The whole statistics are stored in float16.
    assert np.abs(found[above] - whole["fs3"][above]).max() < 2e-3
    cosines = (found[below] * whole["fs3"][below].astype(np.float32)).sum(1)
    assert 0.7 < np.median(cosines) < 0.9999


def row_layers(generator):
    return [layer for layer in generator.layers if not layer.to_rgb for _ in range(layer.channels)]


def test_a_preview_must_be_a_side_that_the_generator_has(networks, tmp_path):
    rule = Fs3Rule(num_images=5, batch=3, preview=64)
    with pytest.raises(ValueError, match="one of 8, 16, 32"):
        job.compute_part(*networks, tmp_path, rule, samples=SAMPLES)


def test_the_servers_kernels_give_the_same_directions(networks):
    """Interpreted, in float16, a row of the first and of the last layer."""
    generator, clip = networks
    mean, std, _ = style_moments(generator, SAMPLES)
    wanted = {1, num_rows(generator) - 1}
    plain = Fs3Rule(num_images=2, batch=4)
    found = []
    for rule in (plain, replace(plain, dtype=torch.float16, fused=True)):
        encode = job.image_encoder(clip)
        rows = list(fs3_rows(generator, encode, mean, std, rule, wanted))
        assert [row for row, *_ in rows] == sorted(wanted)
        found.append(np.array([direction for _, direction, _ in rows]))
    assert ((found[0] * found[1]).sum(1) > 0.995).all()
