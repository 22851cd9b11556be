"""Faces that wander, hide, cross and cut through a video, before a detector that knows where they are."""

from dataclasses import dataclass, field

import numpy as np

from fmlfast.data.face_detector import Face, Glimpse
from fmlfast.reconstruction.track.follow import MIN_FACE, PATIENCE, SEARCH, FaceFollower
from tests.helpers.drawn_faces import make_face

IMAGE = np.zeros((480, 640, 3), np.uint8)
STEP = 0.04  # seconds


@dataclass
class KnowingDetector:
    """Knows the faces of the present frame; finds again the one nearest to where it looks, within reach."""

    faces: list[Face] = field(default_factory=list)
    searches: int = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.searches += 1
        return list(self.faces)

    def follow(self, image: np.ndarray, landmarks: np.ndarray) -> Glimpse | None:
        middle, size = landmarks.mean(0), np.ptp(landmarks, axis=0).max()
        near = sorted(self.faces, key=lambda face: float(np.abs(face.landmarks.mean(0) - middle).max()))
        if not near or np.abs(near[0].landmarks.mean(0) - middle).max() > 1.2 * size:
            return None
        face = near[0]
        return Glimpse(face.landmarks.astype(np.float64), lambda: face.detection)


class Film:
    """Steps a follower through frames; `seen` are the numbers and places of the last one."""

    def __init__(self) -> None:
        self.detector = KnowingDetector()
        self.follower = FaceFollower(self.detector)  # pyright: ignore[reportArgumentType]
        self.time = 0.0

    def show(self, *faces: tuple[float, float, float], doubt: float = 0.005, cut: bool = False) -> dict[int, float]:
        """Shows faces (x, y, size); returns where each track is, its number and x."""
        self.detector.faces = [make_face(*face, doubt) for face in faces]
        found = self.follower.step(self.time, IMAGE, cut)
        self.time += STEP
        assert len({number for number, _ in found}) == len(found)
        return {n: float((g.landmarks[:, 0].min() + g.landmarks[:, 0].max()) / 2) for n, g in found}


def near(found: dict[int, float], wanted: dict[int, float]) -> bool:
    return found.keys() == wanted.keys() and all(abs(found[n] - wanted[n]) < 1 for n in wanted)


def test_a_face_that_wanders_is_one_track() -> None:
    film = Film()
    for step in range(60):
        assert near(film.show((100 + 6 * step, 200, 90)), {0: 100 + 6 * step})


def test_the_whole_picture_is_searched_once_a_second() -> None:
    film = Film()
    for _ in range(76):  # three seconds
        film.show((200, 200, 90))
    assert film.detector.searches == 1 + int(75 * STEP / SEARCH)


def test_a_face_lost_for_a_moment_comes_back_under_its_number() -> None:
    film = Film()
    film.show((200, 200, 90))
    for _ in range(int(PATIENCE / STEP) - 2):
        assert film.show() == {}
    assert near(film.show((215, 205, 92)), {0: 215})


def test_a_face_lost_from_a_glimpse_is_found_by_the_next_search_under_its_number() -> None:
    film = Film()
    film.detector.follow = lambda image, landmarks: None  # type: ignore[method-assign]
    film.show((200, 200, 90))
    found = [film.show((200, 200, 90)) for _ in range(12)]
    assert {n for seen in found for n in seen} == {0} and sum(map(len, found)) >= 2


def test_a_track_ends_after_its_patience() -> None:
    film = Film()
    film.show((200, 200, 90))
    for _ in range(int(PATIENCE / STEP) + 3):
        film.show()
    assert film.follower.tracks == []
    found = [film.show((200, 200, 90)) for _ in range(8)]
    assert near(found[-1], {1: 200})


def test_a_cut_ends_all_tracks_and_searches_at_once() -> None:
    film = Film()
    film.show((150, 200, 90), (400, 200, 100))
    assert near(film.show((151, 200, 90), (401, 200, 100), cut=True), {2: 401, 3: 151}) or near(
        film.show((151, 200, 90), (401, 200, 100)), {2: 151, 3: 401}
    )


def test_two_crossing_faces_keep_their_numbers() -> None:
    film = Film()
    found: list[dict[int, float]] = []
    for step in range(50):
        found.append(film.show((100 + 8 * step, 170, 90), (500 - 8 * step, 290, 90)))
    assert all(near(seen, {0: 100 + 8 * s, 1: 500 - 8 * s}) for s, seen in enumerate(found))


def test_a_face_that_hides_another_takes_no_second_number() -> None:
    film = Film()
    film.show((200, 200, 90), (330, 200, 90))
    for step in range(1, 14):
        film.show((200 + 10 * step, 200, 90))  # reaches the place where the other one was, who is behind it
    found = film.show((200 + 10 * 14, 200, 90))
    assert list(found) == [0]


def test_two_tracks_never_follow_one_face() -> None:
    film = Film()
    film.show((200, 200, 90), (280, 200, 90))
    for step in range(30):
        found = film.show((min(200 + 4 * step, 240), 200, 90))
        assert len(found) <= 1
    assert len(film.follower.tracks) == 1


def test_small_and_doubtful_faces_are_not_begun() -> None:
    assert Film().show((200, 200, MIN_FACE - 5)) == {}
    assert Film().show((200, 200, 90), doubt=0.04) == {}
    film = Film()
    assert film.show((200, 200, 90), doubt=0.04) == {}
    for _ in range(10):
        found = film.show((200, 200, 90))
    assert near(found, {0: 200})


def test_a_doubtful_face_that_was_lost_is_still_the_one_it_was() -> None:
    film = Film()
    film.show((200, 200, 90))
    for _ in range(6):
        film.show()
    film.detector.follow = lambda image, landmarks: None  # type: ignore[method-assign]
    found = [film.show((200, 200, 90), doubt=0.04) for _ in range(6)]
    assert {n for seen in found for n in seen} == {0}


def test_a_face_that_jumps_or_grows_at_once_is_another() -> None:
    film = Film()
    film.show((100, 200, 90))
    numbers = {n for _ in range(10) for n in film.show((300, 200, 90))}
    assert numbers == {1}
    numbers = {n for _ in range(10) for n in film.show((300, 200, 170))}
    assert 1 not in numbers


def test_a_face_that_comes_later_is_begun_within_a_second() -> None:
    film = Film()
    found = [film.show((150, 200, 90), *([(450, 200, 80)] if step > 3 else [])) for step in range(30)]
    assert near(found[-1], {0: 150, 1: 450})


def test_tracks_of_an_interrupted_video_go_on() -> None:
    film = Film()
    film.show((150, 200, 90), (400, 200, 80))
    tracks, count = film.follower.tracks, film.follower.count
    again = Film()
    again.follower = FaceFollower(again.detector, tracks, count)  # pyright: ignore[reportArgumentType]
    again.time = film.time
    assert sorted(again.show((150, 200, 90), (400, 200, 80), (280, 400, 70))) == [0, 1, 2]


def test_a_face_that_passes_behind_another_leaves_it_its_number() -> None:
    film = Film()
    for step in range(60):
        behind, front = 100 + 7 * step, 300
        hidden = abs(behind - front) < 36
        faces = [(front, 200, 90)] if hidden else [(behind, 200, 90), (front, 200, 90)]
        found = film.show(*faces)
        assert abs(found.get(1, front) - front) < 1 and abs(found.get(0, behind) - behind) < 1
        assert hidden or 0 in found or behind > front  # it may be another track once it is out again
