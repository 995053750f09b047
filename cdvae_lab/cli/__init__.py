"""The command line `cdvae-lab`: thin over the same generators that Python users call.

A command's flags are imported when the command is given and its work when it runs, so that every `--help` is quick.

Exit codes: 0 done (or stopped on time, with the state kept), 1 `doctor` found a problem, 2 for input that cannot be
used, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import cdvae_lab
from cdvae_lab.errors import LabError, SettingError

# Every command: the module whose `add` makes its parser, and its line in `cdvae-lab --help`.
COMMANDS = {
    "demo": ("demo", "Run the quickstart notebook without a browser: crystals, pages and a summary in a folder."),
    "lab": ("notebooks", "Open the tutorial notebooks in JupyterLab."),
    "app": ("app", "Open the whole laboratory on one page in a browser."),
    "models": ("models", "List the bundled models: data, crystals they take, files."),
    "info": ("info", "Show what a model was trained on, its sizes, settings, scores and license."),
    "doctor": ("doctor", "Check this installation: packages, devices, bundled files, cache, notebooks."),
    "generate": ("flags.generate", "Generate crystals from the prior, each batch written when it is done."),
    "reconstruct": ("flags.reconstruct", "Encode crystals, decode them again, and report how many are reconstructed."),
    "optimize": (
        "flags.optimize",
        "Optimize the predicted property of crystals in latent space; decode on the way.",
    ),
    "evaluate": ("flags.evaluate", "Evaluate crystals as the CDVAE paper does, with uniqueness and novelty beside."),
    "train": ("flags.train", "Train a model on a data set; the state is saved during the run, and loads as a model."),
    "prior": ("flags.prior", "Fit a learned prior to a model's latents, and save both as one model."),
    "property": ("flags.property_model", "Train a property model, an independent predictor for `evaluate`."),
    "export": ("export", "Make a model to release from a training state: averaged weights, no optimizer."),
    "completion": ("completion", "Print the completion script of a shell."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    # The command is the first word that is not an option; the parser itself has no option with a value.
    args = parser(next((word for word in words if not word.startswith("-")), None)).parse_args(words)
    try:
        if argv is not None and getattr(args, "devices", 1) > 1:
            raise SettingError("--devices: the other processes run this command line again, so give it in a shell")
        return args.run(args)
    except (LabError, OSError) as error:
        print(f"cdvae-lab {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ncdvae-lab {args.command}: interrupted; {args.kept(args)}", file=sys.stderr)
        return 130


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Create the parser of the command line.

    Args:
        command: the only one whose flags are needed; "all" adds the flags of every command.
    """
    made = argparse.ArgumentParser(
        prog="cdvae-lab",
        description="Train crystal diffusion variational autoencoders, generate crystals, and evaluate them.",
        epilog="`cdvae-lab COMMAND --help` explains a command's flags, with units and defaults.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"cdvae-lab {cdvae_lab.__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        if command in (name, "all"):
            importlib.import_module(f"cdvae_lab.cli.{module}").add(commands)
        else:
            commands.add_parser(name, help=text, add_help=False)
    return made
