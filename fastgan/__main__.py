"""`python -m fastgan` is the `fastgan` command."""

from fastgan.cli import main

main()
