"""The `fmlfast` command. Heavy modules load inside the subcommands, so that --help answers at once."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from fmlfast.data.prepare import PrepareConfig

app = SubcommandApp()
ERROR, INTERRUPTED = 2, 130  # exit codes


@app.command
def prepare(config: Annotated[PrepareConfig, arg(name="")]) -> None:
    """Turns videos into training clips: finds and follows faces, keeps good frames, crops, writes shards.

    A second run does only what is missing. report.json in the output says per clip what was kept and why the rest
    was not.
    """
    from fmlfast.data.prepare import prepare as run

    print(run(config))


@app.command
def reconstruct(
    images: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE...")],
    /,
    checkpoint: Path,
    out: Path,
    face: int | None = None,
    refine: int = 50,
) -> None:
    """Reconstructs one person's face from one photo or several: overlays, meshes, parameters.

    Args:
        images: Photos of one person, any format Pillow reads.
        checkpoint: Run folder of a trained model.
        out: New folder for the results.
        face: Which face to take where a photo shows several, counted from 0 at the left.
        refine: Steps of refinement on these photos; 0 takes the network's answer.
    """
    from fmlfast.reconstruction import check_new
    from fmlfast.reconstruction import reconstruct as run

    check_new(out)  # before the work, not after it
    result = run(images, checkpoint, face=face, refine=refine)
    result.save(out)
    print(f"{out}: {len(images)} photo{'s' * (len(images) > 1)}, mesh of {len(result.neutral)} vertices")


@app.command
def evaluate(
    run: Annotated[Path, Positional, arg(metavar="RUN")], /, data: Path, split: str = "test", refine: int = 50
) -> None:
    """Measures a trained model on clips with ground truth and writes evaluation.json into the run folder.

    Args:
        run: Run folder of a trained model.
        data: Folder of prepared or synthetic clips.
        split: Which of its splits to use.
        refine: Steps of refinement in the last row.
    """
    from fmlfast.evaluate import evaluate_run

    table = evaluate_run(run, data, split, refine_steps=refine)
    for name, row in table.items():
        if isinstance(row, dict) and "landmark_nme" in row:
            values = [f"{metric} {value:.3f}" for metric, value in row.items() if value is not None]
            print(f"{name:20s} {'  '.join(values)}")


def main(args: list[str] | None = None) -> None:
    """Runs the command line; what the user can mend ends as one line on stderr and exit code 2."""
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
