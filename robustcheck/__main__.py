"""`python -m robustcheck` is `robustcheck`."""

from robustcheck.cli import main

main(prog_name="robustcheck")
