"""Defines the `fmlfast` command: one help page, and subcommands in modules that load when they are asked for."""

import importlib
import shutil
import sys
import textwrap
from difflib import get_close_matches
from typing import NamedTuple

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

from fmlfast.common.termination import ends_in_one_line
from fmlfast.common.version import __version__


class Command(NamedTuple):
    """A subcommand: what the help page says of it, and where it is."""

    summary: str
    module: str = ""
    """Module with a command line of its own, `main(args, prog)`. Else `fmlfast.cli.NAME` has a function NAME, of whose
    signature and docstring tyro makes the command line."""


COMMANDS = {
    "Heads from photos and videos": {
        "reconstruct": Command("One person's head from photos, folders of photos and videos."),
        "track": Command("Everyone in a video: overlay, moving GLB, ARKit weights."),
        "export": Command("Writes a reconstructed head as GLB, OBJ, PLY or USDZ."),
        "view": Command("Shows results, or the people of a model, in a browser."),
    },
    "Training and measuring a model": {
        "prepare": Command("Converts videos to training clips."),
        "synthesize": Command("Renders training clips of generated people.", "fmlfast.data.synthetic.generate"),
        "train": Command("Trains a face model on clips, anew or from the shipped one.", "fmlfast.cli.train"),
        "evaluate": Command("Measures a model on clips, or on photos with 3D scans."),
    },
    "Setting up": {
        "calibrate": Command("Ties the face detector's points to a head of your own."),
        "info": Command("Shows versions, devices and extras, or what a run, result or clip folder holds."),
    },
}
"""Subcommands by the heading that they stand under on the help page."""
EPILOG = """\
fmlfast COMMAND --help lists a command's options. To begin with:

  fmlfast reconstruct photo.jpg            out/photo: head.glb to animate, pictures, parameters
  fmlfast prepare videos/ --out data/mine  clips, to train on with the next line
  fmlfast train --data data/mine --init shipped --run runs/mine
  fmlfast info                             what is installed, and how to get what is missing
"""


def help_page() -> str:
    """Composes the page that `fmlfast --help` prints."""
    width = min(100, shutil.get_terminal_size((100, 40)).columns)
    lines = ["usage: fmlfast COMMAND ...", "       fmlfast --help | --version", ""]
    lines += ["Learns a 3D face model from videos and reconstructs heads from photos and videos.", ""]
    for heading, commands in COMMANDS.items():
        lines.append(f"{heading}:")
        for name, command in commands.items():
            lines += textwrap.wrap(command.summary, width, initial_indent=f"  {name:13s}", subsequent_indent=" " * 15)
        lines.append("")
    return "\n".join(lines) + "\n" + EPILOG


def main(args: list[str] | None = None) -> None:
    """Runs the command line; mistakes and interruptions end in one line on stderr: see `ends_in_one_line`."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(help_page(), end="")
    elif name == "--version":
        print(f"fmlfast {__version__}")
    else:
        with ends_in_one_line():
            _run(name, rest)


def _run(name: str, args: list[str]) -> None:
    commands = {name: command for group in COMMANDS.values() for name, command in group.items()}
    if name not in commands:
        near = get_close_matches(name, commands, 1)
        raise ValueError(f"no command {name!r}; {f'did you mean {near[0]}?' if near else ''} fmlfast --help lists all")
    program, own = f"fmlfast {name}", commands[name].module
    module = importlib.import_module(own or f"fmlfast.cli.{name}")
    if own:
        module.main(args, program)
        return
    import tyro  # here: the help page needs none of it

    tyro.cli(getattr(module, name), prog=program, args=args)
