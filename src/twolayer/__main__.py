"""``python -m twolayer``, and the console script: the command line, or one line on what it takes to have one."""

import sys
from typing import Any

from twolayer.extras import missing


def main() -> Any:
    """As :func:`twolayer.cli.main`, with the arguments of the process."""
    try:
        from twolayer import cli
    except ModuleNotFoundError as error:
        sys.exit(f"twolayer: {missing(error)}")
    return cli.main()


if __name__ == "__main__":
    sys.argv[0] = "twolayer"  # which the help shows
    sys.exit(main())
