"""The files in a network's version folder."""

MODEL_FILE = "model.onnx"  # float32
FLOAT16_FILE = "model.fp16.onnx"  # run by "gpu" in place of MODEL_FILE, where there is one
PYTHON_FILE = "model.py"  # alone: the domain lacks this network
OPENVINO_FILE = "model.openvino.onnx"  # run by "openvino"; its weights lie in MODEL_FILE
# Of the model `features`:
FACE_TO_FEATURES_FILE = "face_to_features.onnx"
FEATURES_TO_IMAGE_FILE = "features_to_image.onnx"
OPENVINO_FEATURE_FILES = {  # run by "openvino" in their place
    FACE_TO_FEATURES_FILE: "face_to_features.openvino.onnx",
    FEATURES_TO_IMAGE_FILE: "features_to_image.openvino.onnx",
}
SHARED_WEIGHTS_FILE = "shared_weights.json"  # which of their weights lie in another MODEL_FILE
# Where the launcher links them in the version folder of a `stylegan2` that runs them itself.
FEATURES_FOLDER = "features"
