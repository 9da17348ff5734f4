"""Encoded frames to uint8 images, read one by one from the step caches and decoded into the batch's own memory."""

import os
from collections.abc import Sequence

import numpy as np
import simplejpeg

from data_pipeline.cache import StepCache
from data_pipeline.mapping import DatasetError
from data_pipeline.tensorflow_cpu import tensorflow
from dexhil.transforms.normalization import resize_image

_ALIGNMENT = 64  # bytes: TensorFlow takes over such memory without a copy
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


class FrameStore:
    """Frames of some cameras over several caches. image_size: side in px; None keeps the one size that is stored."""

    def __init__(self, caches: Sequence[StepCache], cameras: Sequence[str], image_size: int | None) -> None:
        self._caches, self._size = caches, image_size
        self._files = [os.open(cache.directory / "frames.bin", os.O_RDONLY) for cache in caches]
        self._columns = [[cache.cameras.index(camera) for camera in cameras] for cache in caches]
        self._shapes = {camera: self._shape(camera) for camera in cameras}

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)

    def _shape(self, camera: str) -> tuple[int, ...]:
        if self._size is not None:
            return (self._size, self._size, 3)
        shapes = {tuple(cache.image_shapes[camera]) for cache in self._caches}
        if len(shapes) > 1 or None in next(iter(shapes)):
            raise DatasetError(f"camera {camera!r} has images of shapes {sorted(map(str, shapes))}; set image_size")
        return tuple(size for size in shapes.pop() if size is not None)

    def decode(self, records: np.ndarray) -> dict[str, np.ndarray]:
        """Camera -> uint8 [B, h, w, 3] of index records [B]. Raises DatasetError naming a frame that fails."""
        images = {camera: aligned_empty((len(records), *shape)) for camera, shape in self._shapes.items()}
        for i, (dataset, row) in enumerate(zip(records["dataset"].tolist(), records["row"].tolist(), strict=True)):
            frames = self._caches[dataset].frames[row].tolist()
            for camera, column in zip(images, self._columns[dataset], strict=True):
                offset, size = frames[column]
                try:
                    self._decode_into(os.pread(self._files[dataset], size, offset), images[camera][i])
                except ValueError as error:
                    where = f"episode {records['episode'][i]} step {records['t'][i]} camera {camera!r}"
                    raise DatasetError(f"data set {dataset} {where}: the image does not decode ({error})") from error
        return images

    def _decode_into(self, data: bytes, out: np.ndarray) -> None:
        if data[:2] == _JPEG and self._size is None:
            image = simplejpeg.decode_jpeg(data, buffer=out)
            if image.shape != out.shape:
                raise ValueError(f"its shape is {image.shape}, expected {out.shape}")
            return
        image = simplejpeg.decode_jpeg(data) if data[:2] == _JPEG else _decode_any(data)
        out[...] = resize_image(image, self._size) if self._size else image


def _decode_any(data: bytes) -> np.ndarray:
    if data[:4] == _PNG and data[24:25] == b"\x10":  # TensorFlow would keep the high byte alone
        raise ValueError("it has 16 bits per value, expected an 8-bit colour picture")
    tf = tensorflow()
    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(error.message) from error


def aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised uint8 memory at an address that TensorFlow adopts as it is."""
    size = int(np.prod(shape))
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].reshape(shape)
