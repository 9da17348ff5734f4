"""The handheld cube: where its markers are, and its pose in one image. OpenCV and NumPy.

Cube frame: origin in the middle, +z out of the face opposite the handle. Faces 0 to 4 carry the markers of the same
numbers: +x, +y, -x, -y, +z. A marker's corners are found to a few hundredths of a pixel by fitting lines to its edges,
which uses all of the edge and not only the surroundings of the corner.
"""

import dataclasses

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots.poses import make_pose, rotation

CUBE_M, MARKER_M = 0.060, 0.046
DICTIONARY = cv2.aruco.DICT_4X4_50
NORMALS = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1]], np.float64)
UPS = np.array([[0, 0, 1]] * 4 + [[-1, 0, 0]], np.float64)  # of the printed marker, seen from outside
SMALLEST_PX = 7.0  # a marker that is flatter in the image is seen too much from the side
WORST_PX = 1.0  # reprojection error, root mean square, of a believable pose
ALONG, ACROSS = 24, 17  # samples along an edge and across it
MARGIN_FRACTION = 0.8 * (CUBE_M - MARKER_M) / 2 / MARKER_M  # of the marker's height that is surely white outside it


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """A camera: matrix [3, 3] px, pixel centres at whole numbers, OpenCV's distortion, and `size` px of its images."""

    matrix: np.ndarray
    distortion: np.ndarray
    size: tuple[int, int] | None = None

    def check_size(self, width: int, height: int) -> None:
        """Raises ValueError for images of another size."""
        if self.size is not None and self.size != (width, height):
            raise ValueError(
                f"intrinsics for images of {self.size[0]} x {self.size[1]}, the camera gives {width} x {height}; "
                "record them at this size with hardware/calibrate.py camera, or set the camera's width and height"
            )


@dataclasses.dataclass(frozen=True)
class Sighting:
    """The cube in one image: candidate poses [k, 7], the best first, of several markers; error_px: its rms."""

    poses: np.ndarray
    markers: int
    error_px: float


def face_axes(face: int) -> np.ndarray:
    """Right, up and outward axis of a face as columns [3, 3], in the cube's frame."""
    return np.stack([np.cross(UPS[face], NORMALS[face]), UPS[face], NORMALS[face]], axis=1)


def marker_corners(cube_m: float = CUBE_M, marker_m: float = MARKER_M) -> np.ndarray:
    """Corners [5, 4, 3] m of the markers in the cube's frame, clockwise from their top left, seen from outside."""
    square = 0.5 * marker_m * np.array([[-1, 1], [1, 1], [1, -1], [-1, -1]])
    local = np.concatenate([square, np.full((4, 1), 0.5 * cube_m)], axis=1)
    return np.stack([local @ face_axes(face).T for face in range(len(NORMALS))])


def detector() -> cv2.aruco.ArucoDetector:
    """Finds the cube's markers; their corners are refined here, not by OpenCV."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_NONE
    parameters.adaptiveThreshWinSizeMin, parameters.adaptiveThreshWinSizeMax = 7, 23
    parameters.adaptiveThreshWinSizeStep = 16
    parameters.adaptiveThreshConstant = 10
    parameters.perspectiveRemovePixelPerCell, parameters.perspectiveRemoveIgnoredMarginPerCell = 8, 0.2
    return cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARY), parameters)


def find_markers(
    gray: np.ndarray, finder: cv2.aruco.ArucoDetector, origin: tuple[int, int] = (0, 0)
) -> dict[int, np.ndarray]:
    """{face: corners [4, 2] px} in a part of an image whose top left pixel is `origin`; coarse, to about a pixel."""
    parameters = finder.getDetectorParameters()
    parameters.minMarkerPerimeterRate = 4 * SMALLEST_PX / max(gray.shape)  # noise, tried too, costs most
    finder.setDetectorParameters(parameters)
    corners, numbers, _ = finder.detectMarkers(gray)
    if numbers is None:
        return {}
    found = {}
    for number, quad in zip(np.ravel(numbers).tolist(), corners, strict=True):
        quad = quad.reshape(4, 2).astype(np.float64)
        if number < len(NORMALS) and heights(quad[None]).min() >= SMALLEST_PX:
            found[int(number)] = quad + origin
    return found


def heights(quads: np.ndarray) -> np.ndarray:
    """Distance [m, 4] px from each edge's middle of quadrilaterals [m, 4, 2] to the opposite edge."""
    middles = 0.5 * (quads + np.roll(quads, -1, axis=1))
    across = np.roll(middles, -2, axis=1) - middles
    along = np.roll(quads, -1, axis=1) - quads
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1) / np.linalg.norm(along, axis=-1, keepdims=True)
    return np.abs((across * normal).sum(axis=-1))


def refine_corners(gray: np.ndarray, quads: np.ndarray, gamma: float = 2.2) -> np.ndarray:
    """Corners [m, 4, 2] px to sub-pixel, from coarse ones clockwise around dark markers on white.

    gamma: of the camera's picture. A blurred edge is symmetric in light, not in a camera's encoded grey levels, where
    markers look smaller than they are; 1 for a camera with linear output.
    """
    low = np.maximum(np.floor(quads.min(axis=(0, 1))).astype(int) - 8, 0)
    high = np.ceil(quads.max(axis=(0, 1))).astype(int) + 9
    light = cv2.LUT(gray[low[1] : high[1], low[0] : high[0]], (np.arange(256, dtype=np.float32) / 255.0) ** gamma)
    quads = quads - low
    for widest in (4.0, 2.5, 2.5):
        quads = _intersections(*_edge_lines(light, quads, widest))
    return quads + low


def _edge_lines(light: np.ndarray, quads: np.ndarray, widest: float) -> tuple[np.ndarray, np.ndarray]:
    """Two points on each edge, [m, 4, 2] px each, moved to where the image is brightening fastest."""
    begin, along = quads, np.roll(quads, -1, axis=1) - quads
    normal = np.stack([along[..., 1], -along[..., 0]], axis=-1) / np.linalg.norm(along, axis=-1, keepdims=True)
    width = np.clip(MARGIN_FRACTION * heights(quads), 1.0, widest)  # outwards is along `normal` of a clockwise marker
    where = np.linspace(0.08, 0.92, ALONG)
    offsets = np.linspace(-1.0, 1.0, ACROSS) * width[..., None]
    on_edge = begin[..., None, :] + where[:, None] * along[..., None, :]
    grid = on_edge[..., :, None, :] + offsets[..., None, :, None] * normal[..., None, None, :]
    flat = grid.reshape(-1, ALONG * ACROSS, 2).astype(np.float32)
    values = cv2.remap(light, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    steps = np.diff(values.astype(np.float64).reshape(grid.shape[:-1]), axis=-1)
    steps = np.maximum(steps - 0.1 * steps.max(axis=-1, keepdims=True), 0.0)
    between = 0.5 * (offsets[..., 1:] + offsets[..., :-1])[..., None, :]
    weight = steps.sum(axis=-1)
    moved = (steps * between).sum(axis=-1) / np.maximum(weight, 1e-9)
    at_begin, at_end = _line(where, moved, weight)
    return begin + at_begin[..., None] * normal, begin + along + at_end[..., None] * normal


def _line(where: np.ndarray, moved: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted straight line through `moved` [..., n] over `where` [n], outliers left out: its values at 0 and 1."""
    keep = weight > 0.3 * np.median(weight, axis=-1, keepdims=True)
    line = np.zeros((*moved.shape[:-1], 2))
    for _ in range(2):
        w = weight * keep
        total = np.maximum(w.sum(axis=-1), 1e-9)
        x, y = (w * where).sum(axis=-1) / total, (w * moved).sum(axis=-1) / total
        spread = np.maximum((w * (where - x[..., None]) ** 2).sum(axis=-1), 1e-9)
        slope = (w * (where - x[..., None]) * (moved - y[..., None])).sum(axis=-1) / spread
        line = np.stack([y - slope * x, y + slope * (1.0 - x)], axis=-1)
        residual = np.abs(moved - (line[..., :1] + where * (line[..., 1:] - line[..., :1])))
        keep = keep & (residual <= 3.0 * np.median(residual, axis=-1, keepdims=True) + 0.02)
    return line[..., 0], line[..., 1]


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Corners [m, 4, 2]: each where its edge, through `first` and `second` [m, 4, 2], meets the edge before it."""
    direction = second - first
    before, before_direction = np.roll(first, 1, axis=1), np.roll(direction, 1, axis=1)
    gap = first - before
    cross = direction[..., 0] * before_direction[..., 1] - direction[..., 1] * before_direction[..., 0]
    fraction = (gap[..., 1] * before_direction[..., 0] - gap[..., 0] * before_direction[..., 1]) / cross
    return first + fraction[..., None] * direction


def locate(
    found: dict[int, np.ndarray], intrinsics: Intrinsics, guess: np.ndarray | None, model: np.ndarray
) -> Sighting | None:
    """Pose of the cube in the camera's frame (x right, y down, z forward) from refined corners {face: [4, 2] px}.

    guess: [7], where it was. model: see `marker_corners`. Of three markers or more, one that does not fit the others is
    left out. None where there is no pose.
    """
    if not found:
        return None
    faces = sorted(found)
    points, matrix = model[faces], intrinsics.matrix
    pixels = np.stack([found[face] for face in faces]).reshape(-1, 1, 2)
    pixels = cv2.undistortPoints(pixels, matrix, intrinsics.distortion, P=matrix).reshape(-1, 4, 2)
    if len(faces) == 1:
        return _from_one(points[0], pixels[0], matrix)
    sighting = _from_several(points, pixels, matrix, guess)
    if len(faces) > 2 and sighting is not None and sighting.error_px > WORST_PX:
        others = [np.delete(np.arange(len(faces)), left) for left in range(len(faces))]
        fits = [_from_several(points[kept], pixels[kept], matrix, guess) for kept in others]
        sighting = min((fit for fit in fits if fit is not None), key=lambda fit: fit.error_px, default=sighting)
    return sighting


def _from_several(
    points: np.ndarray, pixels: np.ndarray, matrix: np.ndarray, guess: np.ndarray | None
) -> Sighting | None:
    """Of markers [m, 4, 3] m at [m, 4, 2] px: the global solution or the one near the guess, whichever fits better."""
    flat, seen = points.reshape(-1, 3), pixels.reshape(-1, 2)
    good, turn, position = cv2.solvePnP(flat, seen, matrix, None, flags=cv2.SOLVEPNP_SQPNP)
    starts = [(turn, position)] if good else []
    if guess is not None:
        starts.append((rotation(guess).as_rotvec()[:, None], guess[:3, None].astype(np.float64)))
    fits = [_fit(flat, seen, matrix, *start) for start in starts]
    if not fits:
        return None
    error, pose = min(fits, key=lambda fit: fit[0])
    return Sighting(pose[None], len(points), error)


def _from_one(points: np.ndarray, pixels: np.ndarray, matrix: np.ndarray) -> Sighting | None:
    """Both solutions of a single marker [4, 3] m at [4, 2] px: seen flat, it may lean either way."""
    good, turns, positions, _ = cv2.solvePnPGeneric(points, pixels, matrix, None, flags=cv2.SOLVEPNP_IPPE)
    if not good:
        return None
    fits = [_fit(points, pixels, matrix, *start) for start in zip(turns, positions, strict=True)]
    fits.sort(key=lambda fit: fit[0])
    return Sighting(np.stack([pose for _, pose in fits]), 1, fits[0][0])


def _fit(
    points: np.ndarray, pixels: np.ndarray, matrix: np.ndarray, turn: np.ndarray, position: np.ndarray
) -> tuple[float, np.ndarray]:
    turn, position = cv2.solvePnPRefineLM(points, pixels, matrix, None, turn.copy(), position.copy())
    seen, _ = cv2.projectPoints(points, turn, position, matrix, None)
    error = float(np.sqrt(((seen.reshape(-1, 2) - pixels) ** 2).sum(axis=-1).mean()))
    pose = make_pose(position.ravel(), Rotation.from_rotvec(turn.ravel()))
    return error if pose[2] > 0 and np.isfinite(pose).all() else np.inf, pose
