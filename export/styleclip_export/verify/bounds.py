"""Largest accepted absolute differences from the official code; zero means equality.

They are the table "Tolerance" in the golden data's README, which measured the effect of threads,
oneDNN and float64.
"""

EXACT = 0.0
STYLES = 2e-5  # StyleSpace styles, w
IMAGE = 1e-4  # StyleGAN2's image, in [-1, 1]
E4E = 2e-4  # e4e's codes and their image
FEATURES = 1e-4  # StyleFeatureEditor's features and images, relative to the largest
MAPPER = 1e-4  # a latent mapper's output
CLIP = 1e-4  # text and image features
TEXT_DIRECTION = 1e-4
DIRECTION = 1e-5  # boundaries, edited styles, fs3
QUAD = 1e-6  # pixels
SCORE = 1e-6  # the detector's
ALIGNED = 1.0  # levels of 8-bit images
JPEG_MEAN, JPEG_LARGEST = 1.0, 16.0  # levels; the file's own loss is 0.6 and 10
