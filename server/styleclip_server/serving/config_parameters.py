"""Names of parameters in models' configurations, and of a variable, for their Python models."""

FIDELITIES = "fidelities"  # of `direction`: the values of FIDELITY that are served
NETWORK_FILE = "network_file"  # of `stylegan2` as `wire.FEATURE_STYLEGAN2`: the file that it runs
ENGINE = "engine"  # of `features`: which engine runs its networks
DOMAIN = "domain"  # of `stylegan2`: domain.json, for clients
FACES = "faces"  # of `align`: one of `FACES_ON_A_GPU`, where a GPU aligns photos

# Beside PyTorch: "cuda" (default): a GPU aligns photos; "nvjpeg": it decodes them, too; else dlib
# and Pillow.
FACES_VARIABLE = "STYLECLIP_FACES"
CUDA, NVJPEG = "cuda", "nvjpeg"
FACES_ON_A_GPU = (CUDA, NVJPEG)
