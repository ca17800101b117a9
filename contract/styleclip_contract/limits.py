"""Limits of a request. The client checks them early; the server's steps enforce them."""

from __future__ import annotations

PHOTO_BYTES = 32 * 2**20  # of an encoded photo
PHOTO_PIXELS = 50_000_000  # width x height of a decoded photo
LATENT_BYTES = 2**20  # of a saved latent; one of 18 rows has 37 kB
TEXT_CHARACTERS = 300  # of a text; CLIP's 77 tokens seldom cover more
EDITS = 16  # in one request
PHOTOS = 16  # in one request of the web API
STRENGTH = 20.0  # |α|; StyleCLIP's own slider ends at 10
DIRECTION_STRENGTH = 100.0  # of a named direction; the domain's own range is narrower
DIRECTION_CHARACTERS = 64  # of the name of a direction
RECIPE_BYTES = 64 * 2**10  # far more than EDITS edits of the longest texts in ASCII
SWEEP_STEPS = (2, 100)
SWEEP_THRESHOLDS = 16
SWEEP_SIDE = (16, 2048)  # pixels of each image
SWEEP_PIXELS = PHOTO_PIXELS  # of all images of a sweep
GIF_MILLISECONDS = (20, 10_000)  # between images
DEFAULT_GIF_MILLISECONDS = 80
SEED = 2**32 - 1  # of a random latent, the largest
FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIX_BY_FORMAT = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # pixels; PNG has no such limit
QUALITY = (1, 100)  # JPEG and WebP
DEFAULT_FORMAT = "JPEG"
DEFAULT_QUALITY = 95
LATENT, FEATURES = "latent", "features"  # what an edited face is synthesized from
FIDELITIES = (LATENT, FEATURES)
DEFAULT_FIDELITY = LATENT  # of a request without FIDELITY
CROP_BYTES = 2**20  # of an encoded face crop; one of 256 px has at most 0.2 MB
DEFAULT_TRUNCATION = 0.7  # ψ, of a random latent
RESPONSE_BYTES = 256 * 2**20  # accepted by the client; the largest PNG is smaller
