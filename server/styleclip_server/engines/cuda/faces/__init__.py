"""The alignment of photos on a GPU, with dlib's detector and landmark predictor as PyTorch.

They compute what dlib computes, from the parameters of the installed dlib and of a landmark model.

- `decoding`: photos as pixels on the device, by nvJPEG where it decodes as Pillow does
- `resizing`: dlib's bilinear resizing and its image pyramid, the same to the bit
- `frames`: the small levels of photos of many sizes in few shapes, for CUDA graphs
- `fhog`: histograms of oriented gradients of many images at once
- `detector`: the frontal face detector; dlib decides where rounding could change the answer
- `landmarks`: the landmarks of a batch of faces
- `cropping`: FFHQ's face crop
- `aligner`: all of them for a batch of photos; it leaves what fails to dlib and Pillow
"""
