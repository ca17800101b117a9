"""The named errors that calls raise, as `styleclip_contract.errors` defines them."""

from styleclip_contract.errors import *  # noqa: F403
