"""`python -m reproducer` is `reproduce`."""

import sys

from reproducer.cli import main

if __name__ == "__main__":
    sys.exit(main())
