"""Triton kernels of dlib's face detector and landmark predictor, and of the crop.

- `resize`: dlib's bilinear resizing
- `frames`: photos of many sizes in frames
- `fhog`: histograms of oriented gradients
- `filters`: the filters, and the windows whose scores reach a limit
- `cascade`: a level of the landmark predictor
- `crop`: affine crops of many images
"""
