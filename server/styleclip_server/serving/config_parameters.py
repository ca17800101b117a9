"""Names of parameters in models' configurations, and of a variable, for their Python models."""

FIDELITIES = "fidelities"  # of `direction`: the values of FIDELITY that are served
NETWORK_FILE = "network_file"  # of `stylegan2` as `wire.FEATURE_STYLEGAN2`: the file that it runs
ENGINE = "engine"  # of `features`: which engine runs its networks
DOMAIN = "domain"  # of `stylegan2`: domain.json, for clients
FACES_ON_GPU = "faces_on_gpu"  # of `align`: a GPU aligns photos, where it is set
FACES_VARIABLE = (
    "STYLECLIP_FACES"  # beside PyTorch: "dlib": no GPU aligns; "nvjpeg": it decodes, too
)
