from styleclip_server.engines.cuda.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
