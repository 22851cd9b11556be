"""Tracks the people of a video: one head each, and pose, expression, gaze and light in every frame.

First pass: all faces are followed, and each person is reconstructed from its best frames. Second pass: the person being
known, every frame is fitted, smoothed along time and refined. Then everything is drawn over the video.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fmlfast.common.atomic import check_new
from fmlfast.data.crop import assumed_K
from fmlfast.data.face_detector import FaceDetector
from fmlfast.data.frames import Frames
from fmlfast.data.video.decode import Frame, Video
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import Cameras, scale_focal
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.pipeline import Reconstructor
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.estimate import PersonEstimator, Track
from fmlfast.reconstruction.track.movies import draw_turntable, draw_videos
from fmlfast.reconstruction.track.observe import Segment, observe_video, observed_segments, read_sights
from fmlfast.reconstruction.track.people import LOOKS, Tracks, group_tracks, join_clips, person_photos
from fmlfast.reconstruction.track.project import Project, TrackSettings
from fmlfast.reconstruction.track.threads import single_threads
from fmlfast.reconstruction.track.tracked import FACE, TrackedPerson

REFINE_PERSON = 50  # steps of refinement of a person's identity
TURNTABLE = "turntable.mp4"


@torch.no_grad()
def track(
    video: str | Path,
    out: str | Path,
    checkpoint: str | Path | None = None,
    *,
    refine: int = 10,
    texture: int = 1024,
    seconds: float | None = None,
    camera: np.ndarray | None = None,
    people: int | None = None,
    progress: bool = False,
) -> list[TrackedPerson]:
    """Tracks the people of a video, and writes videos, parameters and moving heads to a new folder.

    An interrupted run goes on where it was when it is called again with the same arguments.

    Args:
        video: any file that PyAV reads.
        out: new folder; it appears when all is done. Unfinished work lies beside it, in `out`.partial.
        checkpoint: a run folder of train.py; None for the model that comes with the package.
        refine: steps of refinement of every frame on its pixels; 0 fits points only, and is four times as fast.
        texture: side of the texture, texels, a power of two; 0 for none.
        seconds: stop there; None tracks the whole video.
        camera: [3, 3] intrinsics of the video, pixels; None estimates the focal length.
        people: at most so many, those seen most; None takes all.
        progress: show bars with frames a second and the time left.

    Returns:
        The people, the one seen most first.

    Raises:
        FileExistsError: `out` exists.
        ValueError: the video cannot be read or shows no face; the checkpoint or texture is invalid; unfinished work
            has other settings.
    """
    path, out = Path(video), check_new(out)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    if refine < 0:
        raise ValueError(f"--refine must be 0 or more, got {refine}")
    reconstruct = Reconstructor.of(checkpoint, REFINE_PERSON, texture, None)
    stat = path.stat()
    project = Project.open(
        out,
        TrackSettings(
            video=str(path.resolve()),
            bytes=stat.st_size,
            modified=stat.st_mtime,
            model=reconstruct.digest,
            refine=refine,
            texture=texture,
            seconds=seconds,
            camera=None if camera is None else tuple(tuple(row) for row in camera.tolist()),
        ),
    )
    source = Video(path)
    size, rate, count = _facts(source, seconds)
    K = assumed_K(*size) if camera is None else camera
    segments = _observe(source, project, K, reconstruct.model.config.image_size, count, seconds, progress)
    tracks = Tracks(project.observed, segments)
    groups = group_tracks(tracks, reconstruct.model)[:people]
    if not groups:
        raise ValueError(f"{path}: no face that could be followed for half a second")
    found: list[TrackedPerson] = []
    bar = tqdm(
        total=sum(len(tracks.sights(t)) for group in groups for t in group),
        disable=not progress,
        desc="motion",
        unit="frame",
    )
    with bar:
        for number, group in enumerate(groups):
            known = found[0].K if found else camera
            face = _reconstruct(project, number, reconstruct, tracks, group, source, known)
            motion = _estimate(project, number, reconstruct, tracks, group, face, K, refine, bar)
            found.append(TrackedPerson(face, motion, face.Ks[0], size, path.resolve()))
    heads = [_drawn(reconstruct.model, person.face) for person in found]
    draw_videos(source, project, segments, found, heads, rate, progress)
    for number, (person, head) in enumerate(zip(found, heads, strict=True)):
        folder = project.person(number)
        person.write_files(folder)
        draw_turntable(head, folder / TURNTABLE)
    project.finish(out)
    return found


def _facts(video: Video, seconds: float | None) -> tuple[tuple[int, int], Fraction, int | None]:
    """Reads size, frames a second and number of frames of a video; the number is told, not counted."""
    first: Frame | None = next(iter(video.frames()), None)
    if first is None:
        raise ValueError(f"{video.path}: has no frame")
    height, width = first.image().shape[:2]
    rate, count = video.rate_and_count()
    if seconds is not None:
        count = round(seconds * float(rate)) if count is None else min(count, round(seconds * float(rate)))
    return (width, height), rate, count


def _observe(
    video: Video, project: Project, K: np.ndarray, size: int, count: int | None, seconds: float | None, progress: bool
) -> Sequence[Segment]:
    done = observed_segments(project.observed)
    if not (project.observed / "done").is_file():
        with tqdm(
            total=count, initial=done[-1].end if done else 0, disable=not progress, desc="faces", unit="frame"
        ) as bar:
            with FaceDetector() as detector, single_threads():
                for segment in observe_video(video, project.observed, K, size, detector, seconds, bar.update):
                    done.append(segment)
        (project.observed / "done").touch()
    return done


def _reconstruct(
    project: Project,
    number: int,
    reconstruct: Reconstructor,
    tracks: Tracks,
    group: Sequence[int],
    video: Video,
    K: np.ndarray | None,
) -> Reconstruction:
    """Reconstructs a person from its best frames, or reads what was reconstructed before."""
    folder = project.person(number) / FACE
    if folder.is_dir():
        return Reconstruction.load(folder)
    photos = person_photos(tracks, group, video)
    cameras = (
        None if K is None else Cameras(np.repeat(K[None].astype(np.float32), len(photos), 0), ("given",) * len(photos))
    )
    face = reconstruct(photos, cameras)
    face.save(folder)
    return face


def _estimate(
    project: Project,
    number: int,
    reconstruct: Reconstructor,
    tracks: Tracks,
    group: Sequence[int],
    face: Reconstruction,
    K: np.ndarray,  # [3, 3] px, that the clips have
    refine: int,
    bar: tqdm,
) -> Track:
    """Estimates all frames of a person."""
    model = reconstruct.model.to(reconstruct.device)
    codes, factor = face.codes.to(reconstruct.device), float(face.Ks[0, 0, 0] / K[0, 0])
    estimator = PersonEstimator(model, codes, _start_shape(model, tracks, group, factor), factor, refine)
    found = []
    for track_number in sorted(group, key=lambda n: tracks.sights(n)[0][2].frame):
        windows = project.windows(number, track_number)
        bar.update(sum(len(window.frame) for window in windows))
        after = int(windows[-1].frame[-1]) if windows else -1
        clips = _clips_after(tracks, track_number, after)
        for window in estimator.track(clips, windows[-1] if windows else None):
            project.add_window(number, track_number, len(windows), window)
            windows.append(window)
            bar.update(len(window.frame))
        times = [time for segment in tracks.segments for time in segment.times]
        found.append(Track.join(windows).filled(times, 0))
    return Track.join(found)


def _clips_after(tracks: Tracks, number: int, frame: int) -> Iterator:
    """Reads the clips of a track after a frame, each with the numbers and times of its frames."""
    for segment in tracks.segments:
        sights = segment.tracks.get(number, ())
        first = next((i for i, sight in enumerate(sights) if sight.frame > frame), len(sights))
        if first < len(sights):
            clip = read_sights(tracks.folder, segment, number).part(first, len(sights))
            yield clip, [s.frame for s in sights[first:]], [s.time for s in sights[first:]]


def _start_shape(model: FML, tracks: Tracks, group: Sequence[int], factor: float) -> torch.Tensor | None:
    """Fits the smooth fields that the encoder's outputs are relative to, to some of the person's best frames."""
    if model.shape_fit is None:
        return None
    clip = join_clips([clip for _, clip in tracks.best(group, 2 * LOOKS)])
    frames = Frames.from_clips([clip], model.config.image_size).to(model.code_mean.device)
    start = model.observe(scale_focal(frames, frames.Ks.new_full(frames.mask.shape, factor))).start
    return None if start is None else start.smooth


def _drawn(model: FML, face: Reconstruction) -> Head:
    """Returns the head on the mesh that is drawn in videos: coarser than the one that is written."""
    template = load_template(replace(model.config, level=1)) if model.config.level == 0 else model.template.to("cpu")
    if face.template_folder is not None and model.config.level == 0:
        template = model.template.to("cpu")
    count = len(template.vertices)
    own = model.to("cpu")
    return Head(template, own.neutral(face.codes, template)[0], face.reflectance[:count], face.texture)
