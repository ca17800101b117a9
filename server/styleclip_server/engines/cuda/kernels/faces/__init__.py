"""Triton kernels of dlib's face detector.

- `resize`: dlib's bilinear resizing
"""
