# SPDX-License-Identifier: Apache-2.0
"""Sampled clips: reading, embedding into the page, and measures of quality and motion."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .runs import BadFile

Frames = NDArray[np.uint8]  # [F, Hp, Wp, 3], RGB

MIME = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".mkv": "video/x-matroska"}
# A clip counts as dynamic when the fastest twentieth of its pixels moves at least so far a frame, for 320 pixels of width.
DYNAMIC_PIXELS = 1.0
_LARGEST = 1 << 30  # bytes of decoded pixels


def check(path: Path) -> None:
    """Refuses what must not even be opened; before every other use of a clip."""
    if path.is_dir():
        return
    if not path.is_file():  # a pipe would be waited for
        what = "is no file" if path.exists() else "does not exist"
        raise BadFile(f"{path} {what}; give clips that vmoba sample wrote")
    with path.open("rb") as opened:
        if opened.read(8).startswith((b"#EXTM3U", b"ffconcat")):  # lists that name other files, which FFmpeg would open
            raise BadFile(f"{path} is a playlist; give clips that vmoba sample wrote")


def pictures(path: Path) -> Iterator[Any]:
    """Frames as OpenCV gives them, BGR."""
    if path.is_dir():
        for file in sorted(path.glob("*.png")):
            if (picture := cv2.imread(str(file))) is not None:
                yield picture
        return
    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            fine, frame = capture.read()
            if not fine:
                return
            yield frame
    finally:
        capture.release()


def read(path: Path) -> Frames:
    """Every frame of a clip or of a folder of PNGs; BadFile where there is none, or more than fits."""
    frames, size = [], 0
    for picture in pictures(path):
        size += picture.nbytes
        if size > _LARGEST:
            raise BadFile(f"{path} holds more than {_LARGEST >> 30} GB of frames; give a shorter clip")
        frames.append(picture)
    if not frames or any(frame.shape != frames[0].shape for frame in frames):
        raise BadFile(f"{path} holds no frames that can be decoded; sample it again")
    return np.stack(frames)[..., ::-1].astype(np.uint8)


def element(path: Path, name: str) -> str:
    """HTML that shows the clip and carries its bytes."""
    kind = MIME.get(path.suffix.lower(), "")
    if not kind:
        frames = read(path)
        fine, encoded = cv2.imencode(".png", np.concatenate(list(frames[:: max(1, len(frames) // 6)]), 1)[..., ::-1])
        if not fine:
            raise BadFile(f"{path} cannot be drawn; sample it again")
        return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}">'
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if kind.startswith("image"):
        return f'<img alt="{name}" src="{data}">'
    # Autoplay needs muted. The words between the tags are for browsers without the codec.
    return f'<video aria-label="{name}" controls loop autoplay muted playsinline src="{data}">{name}: this browser cannot play the clip</video>'


def luma(frames: Frames) -> NDArray[np.float64]:
    """Brightness 0..255 (BT.601), [F, Hp, Wp]."""
    values: NDArray[np.float64] = frames.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return values


def psnr(a: Frames, b: Frames) -> float:
    """Decibels over all pixels of two clips of one shape; infinite where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(a: Frames, b: Frames) -> float:
    """Wang et al. 2004: Gaussian window of 11 pixels and deviation 1.5 on luma, mean over frames."""

    def blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]  # type: ignore[assignment]
        return out

    total = []
    for x, y in zip(luma(a), luma(b)):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        total.append(np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))
    return float(np.mean(total))


def motion(frames: Frames) -> dict[str, float]:
    """Mean optical flow and that of the fastest twentieth of pixels, in pixels a frame; flicker where nothing moves."""
    if len(frames) < 2:
        return {"flow": 0.0, "flow_top": 0.0, "dynamic": 0.0, "flicker": 0.0, "frame_difference": 0.0}
    grey = np.clip(luma(frames), 0, 255)
    inside = cv2.blur(np.ones(grey.shape[1:]), (9, 9), borderType=cv2.BORDER_CONSTANT)  # less at the edges
    flows, tops, still = [], [], []
    for before, after in zip(grey[:-1], grey[1:]):
        flow = cv2.calcOpticalFlowFarneback(
            before.astype(np.uint8), after.astype(np.uint8), None, 0.5, 3, 15, 3, 5, 1.2, 0  # type: ignore[call-overload]
        )
        magnitude = np.linalg.norm(flow, axis=-1)
        flows.append(float(magnitude.mean()))
        tops.append(float(np.sort(magnitude.ravel())[-max(1, magnitude.size // 20) :].mean()))
        difference = after - before
        # Noise is gone from the mean of 9 x 9 pixels, motion is not: what `vmoba sample` calls still.
        smooth = cv2.blur(difference, (9, 9), borderType=cv2.BORDER_CONSTANT) / inside
        still.append(np.abs(difference)[np.abs(smooth) < 2])
    top = float(np.mean(tops))
    changes = np.concatenate(still)
    return {
        "flow": float(np.mean(flows)),
        "flow_top": top,
        "dynamic": float(top >= DYNAMIC_PIXELS * frames.shape[2] / 320),
        "flicker": float(changes.mean()) if changes.size else float("nan"),
        "frame_difference": float(np.abs(np.diff(grey, axis=0)).mean()),
    }
