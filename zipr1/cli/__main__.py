"""Makes `python -m zipr1.cli` the command `zipr1`, for launchers such as torchrun."""

from zipr1.cli.main import main

main()
