"""How far a number may lie from the official code's: largest absolute differences.

They are the table "Tolerance" of the golden data's README, which measured what threads, oneDNN and
float64 change. Zero means that the numbers must be the same.
"""

EXACT = 0.0
STYLES = 2e-5  # StyleSpace styles, w
IMAGE = 1e-4  # StyleGAN2's picture, in [-1, 1]
E4E = 2e-4  # e4e's codes and their picture
CLIP = 1e-4  # text and image features
TEXT_DIRECTION = 1e-4
DIRECTION = 1e-5  # boundaries, edited styles, fs3
QUAD = 1e-6  # pixels
SCORE = 1e-6  # the detector's
ALIGNED = 1.0  # levels of 255
JPEG_MEAN, JPEG_LARGEST = 1.0, 16.0  # levels; the file's own loss is 0.6 and 10
