"""StyleCLIP's latent mappers.

Layout: orpatashnik/StyleCLIP, `mapper/training/coach.py` and `mapper/latent_mappers.py`:
`state_dict` with the prefix `mapper.` (and sometimes the decoder), `opts`. The names tell which
groups of rows the mapper has; its options say the same (no_coarse_mapper, …).
"""

from __future__ import annotations

import re
from typing import Any

from styleclip_export.checkpoints import state_dicts
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_networks.mapper import LatentMapper

_GROUPS = {
    "course_mapping.mapping": "coarse",  # the official spelling
    "coarse_mapping.mapping": "coarse",
    "medium_mapping.mapping": "medium",
    "fine_mapping.mapping": "fine",
    "mapping.mapping": "single",
}
_NAME = re.compile(rf"(?:module\.)?mapper\.({'|'.join(map(re.escape, _GROUPS))})\.(.+)")


def is_mapper(content: Any) -> bool:
    """Return whether the content of a PyTorch file has a mapper's names."""
    return any(isinstance(name, str) and name.startswith(("mapper.", "module.mapper."))
               for name in _state_dict(content))  # fmt: skip


def from_content(content: Any, file_size: int) -> LatentMapper:
    """Build the mapper of a PyTorch file.

    Raises:
        UnsupportedFile: it is of another kind, such as StyleCLIP's mapper in StyleSpace.
    """
    arrays = {}
    for name, array in state_dicts.select_arrays(_state_dict(content)).items():
        if match := _NAME.fullmatch(name):
            arrays[f"{_GROUPS[match[1]]}.{match[2]}"] = array
        elif "mapper." in name:
            raise UnsupportedFile(f"{name[:80]!r} is not a layer of a mapper in W+")
    if not arrays:
        raise UnsupportedFile("it contains no mapper in W+")
    groups = sorted({name.split(".")[0] for name in arrays})
    if "single" in groups and len(groups) > 1:
        raise UnsupportedFile("its mapper is of two kinds at once")
    shapes = state_dicts.expected_shapes(lambda: LatentMapper(groups))
    state_dicts.check_shapes(arrays, shapes)
    state_dicts.check_total_size(arrays.values(), file_size)
    state = state_dicts.to_tensors(arrays, shapes)
    return state_dicts.build_network(lambda: LatentMapper(groups), state)


def _state_dict(content: Any) -> dict[Any, Any]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return content if isinstance(content, dict) else {}
