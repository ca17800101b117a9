"""`styleclip edit` with a recipe, and JSON output, on the real server."""

import json

import numpy as np

from edit_texts import SAD_OPTIONS
from paths import AVATAR
from styleclip_client import Client, Inverted, Recipe
from styleclip_client.commands.options import BAD_INPUT, DONE, WRONG_USAGE
from styleclip_client.recipe import Step


def test_a_recipe_describes_the_edits(server, styleclip, tmp_path):
    with Client(server.grpc_url) as client:
        domain = client.domain()
        edits = [domain.edit("a sad face", strength=3), domain.edit("a face with a beard")]
        expected = client.edit_photo(AVATAR, edits[0], format="PNG")
    recipe = tmp_path / "recipe.json"
    steps = (Step(edits[0]), Step(edits[1], on=False))
    recipe.write_text(Recipe(domain.name, "1", steps).to_json())
    out = tmp_path / "out.png"
    assert styleclip("edit", AVATAR, "--recipe", recipe, "-o", out)[0] == DONE
    assert out.read_bytes() == expected.picture
    code, _, stderr = styleclip("edit", AVATAR, "--recipe", recipe, *SAD_OPTIONS, "-o", out)
    assert code == WRONG_USAGE and "a recipe contains all edits" in stderr
    recipe.write_text("{")
    code, _, stderr = styleclip("edit", AVATAR, "--recipe", recipe, "-o", tmp_path / "other.png")
    assert code == BAD_INPUT and "InvalidRecipe" in stderr


def test_edit_and_invert_can_print_json(styleclip, tmp_path):
    out, latent = tmp_path / "out.png", tmp_path / "w.npz"
    code, stdout, _ = styleclip("edit", AVATAR, *SAD_OPTIONS, "-o", out, "--json")
    (file,) = json.loads(stdout)["files"]
    assert code == DONE and file["out"] == str(out)
    assert (file["width"], file["height"], file["format"]) == (256, 256, "PNG")
    assert file["channels"][0] > 0
    code, stdout, _ = styleclip("invert", AVATAR, "-o", latent, "--json")
    content = json.loads(stdout)
    assert code == DONE and content["latents"] == 14 and np.shape(content["quad"]) == (4, 2)
    assert Inverted.load(latent).w_plus.shape == (14, 512)
