"""`optimum-cli export wand`: a thin alias of `wand export`.

Optimum finds this file in the namespace package optimum.commands.register, which must not have an __init__.py. It is
imported whenever optimum-cli starts, so everything heavy is imported in run().
"""

import sys
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class WandExportCommand(BaseOptimumCLICommand):
    """Parses a checkpoint, targets and an output, and hands them to the wand command line."""

    COMMAND = CommandInfo(name="wand", help="Export a text-to-speech decoder with a fixed-capacity KV buffer.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("checkpoint", help="folder of weights")
        parser.add_argument("--target", action="append", required=True, metavar="T", help="repeat for more")
        parser.add_argument("-o", "--output", required=True, metavar="DIR", help="bundle to write")

    def run(self) -> None:
        from wand_export.cli import main

        targets = [word for target in self.args.target for word in ("--target", target)]
        sys.exit(main(["export", "-o", self.args.output, *targets, "--", self.args.checkpoint]))


REGISTER_COMMANDS = [(WandExportCommand, ExportCommand)]
