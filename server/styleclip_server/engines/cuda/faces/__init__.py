"""dlib's face detector and landmark predictor as PyTorch, on any device.

They compute what dlib computes, from the parameters of the installed dlib and of a landmark model.

- `resizing`: dlib's bilinear resizing and its image pyramid, the same to the bit
- `fhog`: histograms of oriented gradients of many images at once
- `detector`: the frontal face detector; dlib decides where rounding could change the answer
- `landmarks`: the landmarks of a batch of faces
- `gathering`: calls of several threads, run together
- `finder`: both for the step `align`, with dlib for what fails
"""
