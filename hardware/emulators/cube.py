"""Pictures of the cube as a camera would take them, with a geometry and a projection apart from the tracker's."""

import dataclasses
import functools

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import rotation

SIDE_M, MARKER_M = 0.060, 0.046
# Each face by its corners, clockwise from the picture's top left seen from outside, in half sides.
FACES = (
    ((1, -1, 1), (1, 1, 1), (1, 1, -1), (1, -1, -1)),
    ((1, 1, 1), (-1, 1, 1), (-1, 1, -1), (1, 1, -1)),
    ((-1, 1, 1), (-1, -1, 1), (-1, -1, -1), (-1, 1, -1)),
    ((-1, -1, 1), (1, -1, 1), (1, -1, -1), (-1, -1, -1)),
    ((-1, -1, 1), (-1, 1, 1), (1, 1, 1), (1, -1, 1)),
)
TEXTURES_PX = (60, 120, 240, 480)
FINER = 3  # pixels are averages of this many squared


@dataclasses.dataclass(frozen=True)
class Scene:
    """The camera: matrix [3, 3] px, standard deviations blur_px and noise (of 255), and gamma, after the blur."""

    matrix: np.ndarray
    width: int = 1280
    height: int = 720
    blur_px: float = 0.7
    noise: float = 3.0
    gamma: float = 2.2
    contrast: tuple[int, int] = (35, 205)  # grey levels of black and white in full light


def camera(width: int = 1280, height: int = 720, focal_px: float = 920.0) -> Scene:
    """A camera with the field of view of a D435's colour camera (69 degrees)."""
    return Scene(
        np.array([[focal_px, 0, 0.5 * width - 3.2], [0, focal_px, 0.5 * height + 2.1], [0, 0, 1]]), width, height
    )


def clutter(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A background, uint8 [H, W]: boxes, lines and blobs of all greys."""
    image = np.full((scene.height, scene.width), 120, np.uint8)
    for _ in range(60):
        begin = rng.integers(0, [scene.width, scene.height]).tolist()
        size = rng.integers(10, 250, 2)
        cv2.rectangle(image, begin, (begin + size).tolist(), int(rng.integers(20, 235)), int(rng.choice([-1, 2, 5])))
    coarse = rng.normal(0, 18, (scene.height // 16, scene.width // 16)).astype(np.float32)
    image = image + cv2.resize(coarse, (scene.width, scene.height))
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.2), 0, 255).astype(np.uint8)


@functools.cache
def face_picture(number: int, pixels: int) -> np.ndarray:
    """A face as printed, float32 [pixels, pixels] in 0..1: white around the marker."""
    picture = np.ones((8 * pixels, 8 * pixels), np.float32)
    edge = round(8 * pixels * MARKER_M / SIDE_M / 2) * 2
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    marker = cv2.aruco.generateImageMarker(dictionary, number, 600)
    begin = (8 * pixels - edge) // 2
    picture[begin : begin + edge, begin : begin + edge] = (
        cv2.resize(marker, (edge, edge), interpolation=cv2.INTER_NEAREST) / 255.0
    )
    return cv2.resize(picture, (pixels, pixels), interpolation=cv2.INTER_AREA)


def visible_faces(pose_camera_cube: np.ndarray) -> list[int]:
    """Faces that are turned to the camera."""
    outwards = rotation(pose_camera_cube).apply(np.mean(FACES, axis=1))
    towards = pose_camera_cube[:3] + 0.5 * SIDE_M * outwards
    return np.flatnonzero((outwards * towards).sum(axis=1) < 0).tolist()


def render(pose_camera_cube: np.ndarray, scene: Scene, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W] grey image of the cube at `pose_camera_cube` [7]."""
    turn, pixels = rotation(pose_camera_cube), {}
    for number in visible_faces(pose_camera_cube):
        points = turn.apply(0.5 * SIDE_M * np.array(FACES[number], float)) + pose_camera_cube[:3]
        if (points[:, 2] > 0.01).all():
            seen = points @ scene.matrix.T
            pixels[number] = seen[:, :2] / seen[:, 2:]
    image = (background / 255.0).astype(np.float32) ** scene.gamma
    if pixels:
        _draw(image, pixels, turn, scene)
    image = 255.0 * image ** (1.0 / scene.gamma)
    image += rng.normal(0.0, scene.noise, image.shape).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _draw(image: np.ndarray, pixels: dict[int, np.ndarray], turn: Rotation, scene: Scene) -> None:
    every = np.concatenate(list(pixels.values()))
    low = np.maximum(np.floor(every.min(axis=0)).astype(int) - 8, 0)
    high = np.minimum(np.ceil(every.max(axis=0)).astype(int) + 9, [scene.width, scene.height])
    if (high <= low).any():
        return
    part = image[low[1] : high[1], low[0] : high[0]]
    fine = cv2.resize(part, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_LINEAR)
    dark, bright = (np.array(scene.contrast) / 255.0) ** scene.gamma
    for number, quad in pixels.items():
        target = FINER * (quad - low + 0.5) - 0.5  # pixel centres are at whole numbers in both
        length = np.linalg.norm(np.diff(target, axis=0), axis=1).max()
        texture_px = next((size for size in TEXTURES_PX if size >= length / 1.5), TEXTURES_PX[-1])
        source = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * texture_px - 0.5
        warp = cv2.getPerspectiveTransform(source, target.astype(np.float32))
        size = (fine.shape[1], fine.shape[0])
        light = 0.75 + 0.25 * abs(float(turn.apply(np.mean(FACES[number], axis=0)) @ [0.3, -0.6, -0.74]))
        shade = light * (dark + (bright - dark) * face_picture(number, texture_px))
        drawn = cv2.warpPerspective(shade, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros(fine.shape, np.uint8)
        cv2.fillConvexPoly(mask, np.rint(16 * target).astype(np.int32), 1, shift=4)
        fine[mask > 0] = drawn[mask > 0]
    if scene.blur_px:
        fine = cv2.GaussianBlur(fine, (0, 0), FINER * scene.blur_px)
    part[:] = cv2.resize(fine, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_AREA)
