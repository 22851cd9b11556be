"""Videos prepared in parts, as by a job array: merged, they are the clips of one run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fmlfast.data.shards import list_clips
from fmlfast.data.video.parts import _members, part_of
from fmlfast.data.video.prepare import _name_sources, prepare
from tests.helpers.drawn_faces import SquareDetector, moving
from tests.helpers.preparing import clips_of, configure
from tests.helpers.videos import write_video

pytest.importorskip("av")
NAMES = ("a", "b", "c", "d", "e")
PARTS = 3


@pytest.fixture
def videos(tmp_path: Path, detector: SquareDetector, grey: np.ndarray) -> Path:
    """Five videos, one of them broken, and two files of one name in folders of one name."""
    for name in NAMES[:-1]:
        write_video(tmp_path / "v" / f"{name}.mkv", moving(grey, 12))
    (tmp_path / "v" / "e.mkv").write_bytes(b"no video")
    return tmp_path / "v"


def samples(out: Path) -> dict[str, list[tuple[str, bytes]]]:
    return {ref.key: _members(ref) for ref in list_clips(out, "train")}


def in_parts(out: Path, *inputs: Path) -> None:
    for number in range(1, PARTS + 1):
        prepare(configure(out, *inputs, part=f"{number}/{PARTS}"))


def test_merged_parts_are_the_clips_of_one_run_byte_for_byte(tmp_path: Path, videos: Path) -> None:
    whole = prepare(configure(tmp_path / "whole", videos))
    out = tmp_path / "out"
    in_parts(out, videos)
    assert list(path.name for path in out.iterdir()) == ["parts"]
    merged = prepare(configure(out, videos, merge=True))
    assert samples(out) == samples(tmp_path / "whole")
    assert [clip.key for clip in clips_of(out)] == sorted(samples(out))
    assert (out / "meta.json").read_bytes() == (tmp_path / "whole" / "meta.json").read_bytes()
    assert merged.sources == whole.sources and merged.clips == whole.clips == 4
    assert merged.new == 5 and str(merged) == str(whole)
    stored = json.loads((out / "report.json").read_text())
    each = [json.loads(path.read_text()) for path in sorted((out / "parts").glob("*/report.json"))]
    assert len(each) == PARTS and stored["clips"] == sum(report["clips"] for report in each)


def test_two_videos_of_one_name_are_told_apart_as_in_one_run(tmp_path: Path, videos: Path, grey: np.ndarray) -> None:
    other = write_video(tmp_path / "w" / "v" / "a.mkv", moving(grey, 16)).parent
    prepare(configure(tmp_path / "whole", videos, other))
    in_parts(tmp_path / "out", videos, other)
    prepare(configure(tmp_path / "out", videos, other, merge=True))
    assert samples(tmp_path / "out") == samples(tmp_path / "whole")
    assert len({clip.subject for clip in clips_of(tmp_path / "out")}) == 5


def test_parts_depend_on_the_names_alone_and_share_the_videos(tmp_path: Path, videos: Path) -> None:
    assert {part_of(f"v/{number}.mp4", 4) for number in range(100)} == {1, 2, 3, 4}
    counts = np.bincount([part_of(f"v/{number}.mp4", 4) for number in range(4000)])[1:]
    assert counts.min() > 900
    in_parts(tmp_path / "out", videos)
    for path in (tmp_path / "out" / "parts").iterdir():
        found = json.loads((path / "report.json").read_text())["sources"].values()
        assert {part_of(record["name"], PARTS) for record in found} <= {int(path.name[0])}


def test_parts_and_merges_go_on_where_they_stopped(
    tmp_path: Path, videos: Path, detector: SquareDetector, grey: np.ndarray
) -> None:
    out = tmp_path / "out"
    in_parts(out, videos)
    calls = detector.calls
    in_parts(out, videos)
    first = prepare(configure(out, videos, merge=True))
    before = (out / "train-000000.tar").read_bytes()
    assert detector.calls == calls and prepare(configure(out, videos, merge=True)).new == 0
    write_video(videos / "f.mkv", moving(grey, 12))
    shutil.rmtree(out / "parts")
    in_parts(out, videos)  # what was merged is not prepared again
    again = prepare(configure(out, videos, merge=True))
    assert again.new == 1 and again.clips == first.clips + 1 and detector.calls == calls * 5 // 4
    assert (out / "train-000000.tar").read_bytes() == before and len(samples(out)) == 5


def lose_a_part(out: Path) -> None:
    shutil.rmtree(out / "parts" / "2-of-3")


def change_settings(out: Path) -> None:
    path = out / "parts" / "2-of-3" / "meta.json"
    path.write_text(path.read_text().replace('"size": 64', '"size": 96'))


def change_version(out: Path) -> None:
    path = out / "parts" / "2-of-3" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "0.0.1"}))


def full_part(out: Path) -> Path:
    return next((out / "parts").glob("*/train-000000.tar"))


def cut_a_shard(out: Path) -> None:
    path = full_part(out)
    path.write_bytes(path.read_bytes()[:-2000])


def flip_a_pixel(out: Path) -> None:
    path = full_part(out)
    content = bytearray(path.read_bytes())
    content[1200] ^= 255
    path.write_bytes(content)


def lose_a_shard(out: Path) -> None:
    full_part(out).unlink()


def copy_a_video(out: Path) -> None:
    full = full_part(out).parent
    other = next(path for path in sorted((out / "parts").iterdir()) if path != full)
    shutil.copy(full / "report.json", other / "report.json")


def add_a_video(out: Path) -> None:
    shutil.copy(out.parent / "v" / "a.mkv", out.parent / "v" / "late.mkv")


FAULTS = {
    lose_a_part: r"missing parts, run --part 2/3",
    change_settings: r"2-of-3 holds clips made in another way",
    change_version: r"2-of-3 was made by another version",
    cut_a_shard: r"train-000000\.tar: truncated",
    flip_a_pixel: r"train-000000\.tar: sample .* damaged",
    lose_a_shard: r"report\.json and shards differ in clips: ",
    copy_a_video: r"v/\w\.mkv is in .* and in ",
    add_a_video: r"1 videos are not prepared, such as v/late\.mkv; run --part \d/3 again",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_merge_of_what_is_not_whole_writes_nothing(tmp_path: Path, videos: Path, spoil) -> None:
    out = tmp_path / "out"
    in_parts(out, videos)
    spoil(out)
    with pytest.raises(ValueError) as caught:
        prepare(configure(out, videos, merge=True))
    assert re.search(FAULTS[spoil], str(caught.value))
    assert [path.name for path in out.iterdir()] == ["parts"]


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3"])
def test_a_part_that_is_none_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match="part must be I/N"):
        configure(tmp_path, tmp_path, part=part)


def test_merging_needs_parts_and_is_no_part(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ValueError, match="either --part or --merge"):
        configure(tmp_path, videos, part="1/2", merge=True)
    with pytest.raises(ValueError, match="holds no parts; prepare them with --part"):
        prepare(configure(tmp_path / "new", videos, merge=True))
    assert not (tmp_path / "new").exists()


def test_names_that_are_no_unicode_are_told_apart(tmp_path: Path) -> None:
    try:
        paths = [(tmp_path / name, name) for name in ("a\udcff.mp4", "a\udcfe.mp4", "a\nb.mp4")]
        for path, _ in paths:
            path.touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system has Unicode names only")
    assert len({source.key for source in _name_sources(paths, {})}) == 3
    assert {part_of(name, 2) for _, name in paths} <= {1, 2}
