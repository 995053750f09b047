"""The command line, thin over the same generators.

`cdvae-lab train | prior | property | generate | reconstruct | optimize | evaluate | info | export`

Exit codes: 0 done (or stopped on time, with the state kept), 2 for input that cannot be used, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import cdvae_lab
from cdvae_lab.cli import about, evaluate, generate, optimize, prior, property_model, reconstruct, train
from cdvae_lab.errors import LabError, SettingError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if argv is not None and getattr(args, "devices", 1) > 1:
            raise SettingError("--devices: other processes are this command line again, so give it in a shell")
        return args.run(args)
    except (LabError, OSError) as error:
        print(f"cdvae-lab {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ncdvae-lab {args.command}: interrupted; {args.kept(args)}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdvae-lab", description=(cdvae_lab.__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"cdvae-lab {cdvae_lab.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train.add(commands)
    prior.add(commands)
    property_model.add(commands)
    generate.add(commands)
    reconstruct.add(commands)
    optimize.add(commands)
    evaluate.add(commands)
    about.add_info(commands)
    about.add_export(commands)
    return parser
