"""Frames to H.264 videos that every browser plays, to pictures, and to contact sheets."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

SUCCESS_COLOUR = (22, 140, 82)
FAILURE_COLOUR = (201, 58, 58)
CONTROL_COLOURS = {"policy": (37, 99, 168), "person": (217, 120, 45)}


def write_video(path: Path, frames: Sequence[np.ndarray], fps: int) -> Path:
    """Writes uint8 [H, W, 3] frames as an mp4 (H.264, yuv420p). Raises ValueError without frames or on uneven
    sizes, OSError where ffmpeg fails."""
    if not frames:
        raise ValueError(f"{path}: a video needs at least one frame")
    height, width = frames[0].shape[:2]
    if height % 2 or width % 2 or any(frame.shape != frames[0].shape for frame in frames):
        raise ValueError(f"{path}: expected frames of one even size, got {sorted({frame.shape for frame in frames})}")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "26", "-preset", "veryfast", "-movflags", "+faststart"]
    options = ["-y", "-loglevel", "error", *source, *target, "-threads", "1"]
    # imageio's own writer forks, which JAX's threads forbid. A session of its own: Ctrl-C stops this program, and the
    # file is still finished.
    data = b"".join(frame.tobytes() for frame in frames)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *options, str(path)]
    done = subprocess.run(command, input=data, capture_output=True, start_new_session=True)
    if done.returncode:
        raise OSError(f"{path}: ffmpeg could not write the video: {done.stderr.decode().strip()}")
    return path


def write_picture(path: Path, image: np.ndarray, quality: int = 85) -> Path:
    """Writes a uint8 [H, W, 3] image as a JPEG."""
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality))
    return path


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG file."""
    return simplejpeg.decode_jpeg(path.read_bytes())


def contact_sheet(
    pictures: Sequence[np.ndarray],
    successes: Sequence[bool],
    labels: Sequence[str],
    *,
    columns: int = 5,
    width: int = 1200,
) -> np.ndarray:
    """One picture of many, uint8 [H, width, 3]: each labelled and framed in green (success) or red (failure)."""
    columns = min(columns, len(pictures))
    gap = max(4, width // columns // 40)
    cell = (width + gap) // columns
    border = max(3, cell // 60)
    inner = cell - 2 * border - gap
    height = round(inner * pictures[0].shape[0] / pictures[0].shape[1])
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width, rows * (height + 2 * border + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=max(11, cell // 16))
    for index, (picture, success, label) in enumerate(zip(pictures, successes, labels, strict=True)):
        x, y = index % columns * cell, index // columns * (height + 2 * border + gap)
        colour = SUCCESS_COLOUR if success else FAILURE_COLOUR
        draw.rectangle((x, y, x + inner + 2 * border - 1, y + height + 2 * border - 1), fill=colour)
        sheet.paste(
            Image.fromarray(picture).resize((inner, height), Image.Resampling.LANCZOS), (x + border, y + border)
        )
        box = draw.textbbox((x + border + 6, y + border + 4), label, font=font)
        draw.rectangle((box[0] - 6, box[1] - 4, box[2] + 6, box[3] + 4), fill=colour)
        draw.text((x + border + 6, y + border + 4), label, font=font, fill="white")
    return np.asarray(sheet)


def control_overlay(frame: np.ndarray, who: str) -> np.ndarray:
    """A copy of uint8 [H, W, 3] with a coloured border and a label for who is in control, "policy" or "person"."""
    if who not in CONTROL_COLOURS:
        raise ValueError(f"control_overlay: who is {who!r}, expected one of {list(CONTROL_COLOURS)}")
    image, colour = Image.fromarray(frame), CONTROL_COLOURS[who]
    draw = ImageDraw.Draw(image)
    border = max(2, min(image.size) // 50)
    font = ImageFont.load_default(size=max(10, image.height // 18))
    corner = (border + 4, border + 2)
    *_, right, bottom = draw.textbbox(corner, who, font=font)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=colour, width=border)
    draw.rectangle((0, 0, right + 4, bottom + 3), fill=colour)
    draw.text(corner, who, font=font, fill="white")
    return np.asarray(image)
