from styleclip_server.gpu.network import TritonPythonModel

__all__ = ["TritonPythonModel"]
