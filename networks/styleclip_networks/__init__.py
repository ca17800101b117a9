"""The reference networks in PyTorch: StyleGAN2, e4e, pSp and CLIP, written as in their papers."""
