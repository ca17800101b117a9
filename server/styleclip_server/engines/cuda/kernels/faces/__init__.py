"""Triton kernels of dlib's face detector and landmark predictor.

- `resize`: dlib's bilinear resizing
- `fhog`: histograms of oriented gradients
- `filters`: the filters, and the windows whose scores reach a limit
- `cascade`: a level of the landmark predictor
"""
