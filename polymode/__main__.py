"""``python -m polymode`` is the command line, also under torchrun and accelerate launch."""

import sys

from polymode.app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
