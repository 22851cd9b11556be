"""Defines `fmlfast prepare`."""

from collections import Counter
from typing import Annotated

from tyro.conf import arg

from fmlfast.cli.tables import aligned
from fmlfast.data.video.clips import SourceRecord, count
from fmlfast.data.video.prepare import PrepareConfig, PrepareReport

REMEDIES = {"small": "--min-face", "unsure": "--max-doubt", "blurred": "--min-sharpness"}
"""Reasons to reject a frame, and the flag whose value decides."""
LISTED = 5  # videos


def prepare(config: Annotated[PrepareConfig, arg(name="")]) -> None:
    """Converts videos to training clips: detects and tracks faces, selects good frames, crops, writes shards.

    A second run prepares only the videos that are missing. report.json in the output counts for each clip the frames
    that were kept and those that were rejected, with the reasons.
    """
    from fmlfast.data.video.prepare import prepare as run

    print(summary(config, run(config)))


def summary(config: PrepareConfig, report: PrepareReport) -> str:
    """Formats what a folder of clips holds, why frames were rejected, and the videos that gave no clip."""
    records = list(report.sources.values())
    clips = [clip for record in records for clip in record.clips]
    people = len({clip.subject for clip in clips if clip.key})
    earlier = f", {len(records) - report.new} of them prepared before" if len(records) > report.new else ""
    seen, kept = sum(clip.looked_at for clip in clips), sum(clip.kept for clip in clips)
    rejected = Counter[str]()
    for clip in clips:
        rejected.update(clip.rejected)
    frames = [("frames searched", sum(record.looked_at for record in records)), ("faces found in them", seen)]
    frames += [("  kept", kept), ("  good, more than a clip needs", seen - kept - rejected.total())]
    rows = [(what, str(number), "") for what, number in frames]
    settings = {flag: getattr(config, flag.removeprefix("--").replace("-", "_")) for flag in REMEDIES.values()}
    for reason, number in rejected.most_common():
        flag = REMEDIES.get(reason)
        rows.append((f"  {reason}", str(number), f"{flag} {settings[flag]}" if flag else ""))
    lines = [
        f"{config.out}: {count(report.clips, 'clip')} of {people} {'person' if people == 1 else 'people'} from "
        f"{count(len(records), 'video')}{earlier}",
        aligned(rows),
    ]
    failed = [record for record in records if not record.kept or record.trouble]
    if failed:
        lines.append(f"{count(len(failed), 'video')} without a clip, or damaged:")
        lines += [f"  {record.name}: {record.trouble or _why(record)}" for record in failed[:LISTED]]
        lines.append(f"{config.out / 'report.json'} has all videos, clip by clip")
    return "\n".join(lines)


def _why(record: SourceRecord) -> str:
    """Tells why a video gave no clip: the most frequent reason of its frames."""
    reasons = Counter[str]()
    for clip in record.clips:
        reasons.update(clip.rejected)
    if not record.clips:
        return "no face found"
    return f"most faces are {reasons.most_common(1)[0][0]}" if reasons else record.clips[0].why_not
