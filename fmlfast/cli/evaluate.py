"""Defines `fmlfast evaluate`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fmlfast.cli.tables import error_tables


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
        run: Run folder of a trained model; by default the model that comes with fmlfast.
        data: Folder of prepared or synthetic clips; without ground truth, landmark and colour errors are measured.
        scans: Folder of photos with scans; docs/evaluation.md describes the layouts.
        split: Split of the clips to evaluate.
        layout: Layout of the folder of scans: auto, folder, now, bu3dfe or facewarehouse.
        refine: Steps of test-time refinement in the table's last row.
        out: New run folder for the results when no RUN is given; by default runs/shipped.
    """
    source = data or scans
    if source is None or (data and scans):
        raise ValueError("name either a folder of clips with --data or a folder of scans with --scans")
    if not source.is_dir():
        flag = "--data" if data else "--scans"
        raise ValueError(f"{source} is not a folder; name one of {'clips' if data else 'scans'} with {flag}")
    if run is None:
        from fmlfast.model.pretrained import copy_default_checkpoint

        run = copy_default_checkpoint(out or Path("runs/shipped"))
    elif out is not None:
        raise ValueError(f"the results go into {run}; --out is for the model that comes with fmlfast")
    if data is not None:
        from fmlfast.evaluation.report import write_report
        from fmlfast.evaluation.run import evaluate_run

        table = evaluate_run(run, data, split, refine_steps=refine)
        files = f"{run / 'evaluation.json'}: all numbers; {write_report(run)}: pictures and curves"
    else:
        from fmlfast.evaluation.scans.protocol import evaluate_scans

        table = evaluate_scans(run, source, refine=refine, layout=layout)
        files = f"{run / 'scans.json'}: all numbers; {run / 'scans.png'}: curves"
    people = table.get("people")
    print(f"{run} on {source}: means over {people} {'person' if people == 1 else 'people'}\n")
    print(error_tables(table))
    print(f"\n{files}")
    if failed := table.get("failed"):
        print(f"{len(failed)} photos left out, the first because {next(iter(failed.values()))}; scans.json lists all")
