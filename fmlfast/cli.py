"""Defines the `fmlfast` command; heavy modules load inside the subcommands, so that --help is fast."""

import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from fmlfast.data.video.prepare import PrepareConfig

app = SubcommandApp()
ERROR, INTERRUPTED = 2, 130  # exit codes


@app.command
def prepare(config: Annotated[PrepareConfig, arg(name="")]) -> None:
    """Converts videos to training clips: detects and tracks faces, selects good frames, crops, writes shards.

    A second run prepares only the videos that are missing. report.json in the output counts for each clip the frames
    that were kept and those that were rejected, with the reasons.
    """
    from fmlfast.data.video.prepare import prepare as run

    print(run(config))


@app.command
def reconstruct(
    images: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE...")],
    /,
    checkpoint: Path | None = None,
    out: Path | None = None,
    face: int | None = None,
    refine: int = 50,
    frames: int = 8,
    texture: int = 1024,
) -> None:
    """Reconstructs one person's face from photos and videos: overlays, meshes, texture, parameters.

    Args:
        images: Photos and videos of one person, any format that Pillow or PyAV reads.
        checkpoint: Run folder of a trained model; the model that comes with fmlfast when not given.
        out: New folder for the results; out/NAME, after the first photo, when not given.
        face: Number of the face to take where a photo shows several, counted from 0 at the left.
        refine: Steps of test-time refinement on these photos; 0 takes the encoder's prediction.
        frames: Largest number of frames to take of each video, evenly spread.
        texture: Side of the texture that is baked from the photos, a power of two, in pixels; 0 for none.
    """
    from fmlfast.common.atomic import check_new
    from fmlfast.reconstruction.pipeline import reconstruct as run

    if not images:
        raise ValueError("no images given; name at least one photo or video of the person")
    if out is None:
        out = Path("out") / images[0].stem
    check_new(out)  # before the work, not after it
    result = run(images, checkpoint, face=face, refine=refine, frames=frames, texture=texture)
    result.save(out)
    count = len(result.names)
    print(f"{out}: {count} photo{'s' * (count > 1)}, mesh of {len(result.neutral)} vertices")
    print("distance to the detected landmarks, % of the outer-eye distance:")
    for name, before, after in zip(result.names, result.network_landmark_errors, result.landmark_errors, strict=True):
        print(f"  {name}  {before:.2f}" + f", refined {after:.2f}" * (refine > 0))


@app.command
def evaluate(
    run: Annotated[Path | None, Positional, arg(metavar="RUN")] = None,
    /,
    data: Path | None = None,
    scans: Path | None = None,
    split: str = "test",
    layout: str = "auto",
    refine: int = 50,
    out: Path | None = None,
) -> None:
    """Evaluates a trained model on prepared clips, or on photos with 3D scans; results go into its folder.

    Args:
        run: Run folder of a trained model; the model that comes with fmlfast when not given.
        data: Folder of prepared or synthetic clips; without ground truth, landmark and colour errors are measured.
        scans: Folder of photos with scans; docs/evaluation.md describes the layouts.
        split: Split of the clips to evaluate.
        layout: Layout of the folder of scans: auto, folder, now, bu3dfe or facewarehouse.
        refine: Steps of test-time refinement in the table's last row.
        out: New run folder for the results when no RUN is given; runs/shipped when not given.
    """
    source = data or scans
    if source is None or (data and scans):
        raise ValueError("name either a folder of clips with --data or a folder of scans with --scans")
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; name one with clips or scans")
    if run is None:
        from fmlfast.model.pretrained import copy_default_checkpoint

        run = copy_default_checkpoint(out or Path("runs/shipped"))
    elif out is not None:
        raise ValueError(f"the results go into {run}; --out is for the model that comes with fmlfast")
    if data is not None:
        from fmlfast.evaluation.report import write_report
        from fmlfast.evaluation.run import evaluate_run

        table = evaluate_run(run, data, split, refine_steps=refine)
        write_report(run)
    else:
        from fmlfast.evaluation.scans.protocol import evaluate_scans

        table = evaluate_scans(run, source, refine=refine, layout=layout)
    print_table(table)
    if failed := table.get("failed"):
        print(f"{len(failed)} photos left out, the first because {next(iter(failed.values()))}; scans.json lists all")


@app.command
def calibrate(
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")],
    /,
    unit: str,
    views: int = 200,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Ties the face detector's points to your own head: renders it, looks at it, writes surface.txt into its folder.

    Args:
        folder: Template folder with neutral.obj, expressions and landmarks.txt, see the README.
        unit: Unit of the OBJ files: mm, cm, dm or m.
        views: Number of random pictures of the head.
        seed: Seed of the pictures.
        overwrite: Replace an existing surface.txt.
    """
    from fmlfast.data.synthetic.calibrate import calibrate as run

    done = run(folder, unit, views=views, seed=seed, overwrite=overwrite)
    print(f"{done.seen} of {done.views} views showed a face; the points scatter by {done.scatter:.2f} mm (median)")
    print(f"{done.path}: written")


def print_table(table: dict[str, Any], heading: str = "") -> None:
    """Prints the numbers in nested results, one row per dict, headed by its path of names."""
    for name, row in table.items():
        if not isinstance(row, dict) or name in ("spread", "ratios", "person_means"):
            continue
        values = [f"{metric} {value:.3f}" for metric, value in row.items() if isinstance(value, float)]
        if values:
            print(f"{heading + name:40s} {'  '.join(values)}")
        print_table(row, f"{heading}{name} ")


def main(args: list[str] | None = None) -> None:
    """Runs the command line; errors of input are printed as one line on stderr, with exit code 2."""
    try:
        app.cli(prog="fmlfast", description="Learn a 3D face model from clips; reconstruct faces.", args=args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
