"""Measures of deformed heads that hair, wear and the camera are fitted to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class FaceShape:
    """Positions on a deformed head, in decimeters, on the host.

    Attributes:
        eyes: (2, 3), centers of the left and right eyeballs.
        center: (3,), of the skull.
        front_z: how far forward brows and cheeks reach where glasses sit.
        ear_tips, lobes: (2, 3), left and right.
        hat_edge: (n, 3), vertices along the edge of a hat.
    """

    eyes: Tensor
    eye_radius: float
    brow_y: float
    chin_y: float
    center: Tensor
    front_z: float
    ear_tips: Tensor
    lobes: Tensor
    hat_edge: Tensor


@dataclass
class FaceShapes:
    """Measures of several heads on the device.

    Attributes:
        window: (h, 3), half the width of the window that hair leaves to the face, and the heights
            of the brows and the chin.
        center: (h, 3), of the skulls.
        lips: (h, 2), the heights between which teeth may be seen.
    """

    window: Tensor
    center: Tensor
    lips: Tensor

    def select(self, index: Tensor) -> FaceShapes:
        """Return the measures of some heads."""
        return FaceShapes(self.window[index], self.center[index], self.lips[index])
