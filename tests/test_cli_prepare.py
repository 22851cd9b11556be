"""What `fmlfast prepare` says of the clips that it made, and of the frames that it rejected."""

from pathlib import Path

from fmlfast.cli.prepare import summary
from fmlfast.data.video.clips import ClipRecord, SourceRecord
from fmlfast.data.video.prepare import PrepareConfig, PrepareReport


def test_the_summary_counts_frames_and_names_the_flags_that_decide() -> None:
    good = ClipRecord("a#0", 0.0, 2.0, looked_at=12, kept=4, rejected={"blurred": 3, "cut off": 1}, key="a-0")
    small = ClipRecord("b#0", 0.0, 1.0, looked_at=5, rejected={"small": 5}, why_not="0 usable frames, 2 needed")
    still = ClipRecord("e#0", 0.0, 1.0, looked_at=1, why_not="1 usable frame, 2 needed")
    sources = {
        "1": SourceRecord("a.mp4", 2.0, 14, clips=[good]),
        "2": SourceRecord("b.mp4", 1.0, 6, clips=[small]),
        "3": SourceRecord("c.mp4", 0.0, 0, trouble="cannot be opened as a video: empty"),
        "4": SourceRecord("d.mp4", 1.0, 6),
        "5": SourceRecord("e.mp4", 1.0, 6, clips=[still]),
    }
    config = PrepareConfig((Path("videos"),), Path("clips"), min_face=120)
    text = summary(config, PrepareReport(sources, new=4))
    assert text.splitlines() == [
        "clips: 1 clip of 1 person from 5 videos, 1 of them prepared before",
        "frames searched                 32",
        "faces found in them             18",
        "  kept                          4",
        "  good, more than a clip needs  5",
        "  small                         5   --min-face 120",
        "  blurred                       3   --min-sharpness 0.05",
        "  cut off                       1",
        "4 videos without a clip, or damaged:",
        "  b.mp4: most faces are small",
        "  c.mp4: cannot be opened as a video: empty",
        "  d.mp4: no face found",
        "  e.mp4: 1 usable frame, 2 needed",
        "clips/report.json has all videos, clip by clip",
    ]
