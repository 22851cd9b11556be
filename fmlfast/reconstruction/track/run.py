"""Tracks the people of a video: one head each, and pose, expression, gaze and light in every frame.

First pass: all faces are followed, and each person is reconstructed from its best frames. Second pass: the person being
known, every frame is fitted, smoothed along time and refined. Then everything is drawn over the video.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fmlfast.common.arguments import check_whole
from fmlfast.common.locks import lock_new_folder
from fmlfast.common.progress import ProgressBar
from fmlfast.common.tensors import independent
from fmlfast.model.config import load_template
from fmlfast.model.fml import FML
from fmlfast.reconstruction.focal_length import Cameras
from fmlfast.reconstruction.head import Head
from fmlfast.reconstruction.inputs import Photo
from fmlfast.reconstruction.pipeline import Reconstructor
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.reconstruction.track.estimate import PersonEstimator, Track
from fmlfast.reconstruction.track.movies import draw_turntable, draw_videos
from fmlfast.reconstruction.track.people import FRAMES, group_tracks, person_photos
from fmlfast.reconstruction.track.project import Project, TrackSettings, unfinished
from fmlfast.reconstruction.track.source import Source, VideoFacts
from fmlfast.reconstruction.track.tracked import FACE, TrackedPerson

REFINE_PERSON = 50  # steps of refinement of a person's identity
LARGE = 360.0  # px of a face's crop, from which its outline would show the edges of the coarsest mesh
TURNTABLE = "turntable.mp4"


@independent
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
        refine: steps of refinement of every frame on its pixels; 0 fits points only, and is faster.
        texture: side of the texture, texels, a power of two; 0 for none.
        seconds: stop there; None tracks the whole video.
        camera: [3, 3] intrinsics of the video, pixels; None estimates the focal length.
        people: at most so many, those seen most; None takes all.
        progress: show bars with frames a second and the time left.

    Returns:
        The people, the one seen most first.

    Raises:
        FileExistsError: `out` exists.
        BlockingIOError: another process tracks into `out`.
        ValueError: the video cannot be read or shows no face; the checkpoint or texture is invalid; unfinished work
            has other settings.
    """
    if people is not None:
        check_whole("people", people, 1)
    path = Path(video)
    with lock_new_folder(out) as out:
        reconstruct = Reconstructor.of(checkpoint, REFINE_PERSON, texture, None)
        cameras = None if camera is None else [camera]
        settings = TrackSettings.of(path, reconstruct.digest, refine, texture, seconds, cameras)
        facts = VideoFacts.of(path)
        project = Project.open(unfinished(out), settings)
        size = reconstruct.model.config.image_size
        source = Source.observe(facts, project.observed, camera, size, seconds, progress)
        groups = group_tracks(source.tracks, reconstruct.model)[:people]
        if not groups:
            raise ValueError(f"{path}: no face that could be followed for half a second")
        found: list[TrackedPerson] = []
        total = sum(len(source.tracks.sights(t)) for group in groups for t in group)
        with ProgressBar(total=total, disable=not progress, desc="motion", unit="frame") as bar:
            for number, group in enumerate(groups):
                first = found[0].face if found else None  # everybody was filmed by one camera
                photos = partial(_photos, source, group, camera, first)
                face = person_face(project.person(number), reconstruct, photos)
                motion = _estimate(project, number, reconstruct, source, group, face, refine, bar)
                found.append(TrackedPerson(face, motion, face.Ks[0], source.size, path.resolve()))
        write_results(project, source, reconstruct.model, found, progress)
        project.finish(out)
        return found


def person_face(
    folder: Path, reconstruct: Reconstructor, photos: Callable[[], tuple[Sequence[Photo], Cameras]]
) -> Reconstruction:
    """Reconstructs a person from its best frames, or reads what was reconstructed before."""
    if (folder / FACE).is_dir():
        return Reconstruction.load(folder / FACE)
    face = reconstruct(*photos())
    face.save(folder / FACE, meshes=False, pictures=False)
    return face


def _photos(
    source: Source, group: Sequence[int], K: np.ndarray | None, first: Reconstruction | None
) -> tuple[Sequence[Photo], Cameras]:
    """Reads a person's best frames, and the camera: as given, K [3, 3] px, or as found for the first person."""
    photos = person_photos(source.tracks, group, source.video, FRAMES)
    if first is not None:
        return photos, Cameras.given([first.Ks[0]] * len(photos), first.focal_sources[0])
    return photos, Cameras.of(photos) if K is None else Cameras.given([K] * len(photos))


def write_results(
    project: Project, source: Source, model: FML, people: Sequence[TrackedPerson], progress: bool
) -> None:
    """Draws the videos and writes the files of everybody."""
    heads = [_drawn(model, person.face, source) for person in people]
    draw_videos(source.video, project, source.segments, people, heads, source.rate, progress)
    for number, (person, head) in enumerate(zip(people, heads, strict=True)):
        folder = project.person(number)
        person.write_files(folder)
        draw_turntable(head, folder / TURNTABLE)


def _estimate(
    project: Project,
    number: int,
    reconstruct: Reconstructor,
    source: Source,
    group: Sequence[int],
    face: Reconstruction,
    refine: int,
    bar: ProgressBar,
) -> Track:
    """Estimates all frames of a person."""
    model = reconstruct.model.to(reconstruct.device)
    codes, focal = face.codes.to(reconstruct.device), float(face.Ks[0, 0, 0] / source.K[0, 0])
    estimator = PersonEstimator(model, codes, source.start_shape(model, group, focal), refine, [focal])
    found = []
    for track_number in sorted(group, key=lambda n: source.tracks.sights(n)[0][2].frame):
        windows = project.windows(number, track_number)
        bar.update(sum(len(window.frame) for window in windows))
        shots = source.shots_after(track_number, int(windows[-1].frame[-1]) if windows else -1)
        for (window,) in estimator.track(shots, windows[-1] if windows else None):
            project.add_window(number, track_number, len(windows), window)
            windows.append(window)
            bar.update(len(window.frame))
        found.append(Track.join(windows).filled(source.times, 0))
    return Track.join(found)


def _drawn(model: FML, face: Reconstruction, source: Source) -> Head:
    """Returns the head on the mesh that is drawn in videos: as coarse as its size there allows."""
    sides = [sight.side for segment in source.segments for sights in segment.tracks.values() for sight in sights]
    fine = model.config.level == 0 and face.template_folder is None and np.median(sides) > LARGE
    template = load_template(replace(model.config, level=1)) if fine else model.template.to("cpu")
    neutral = model.to("cpu").neutral(face.codes, template)[0]
    return Head(template, neutral, face.reflectance[: len(template.vertices)], face.texture)
