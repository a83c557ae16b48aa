"""``python -m twolayer``, and the console script: the command line, or one line on what it takes to have one."""

import gc
import sys
from io import TextIOWrapper
from typing import Any

from twolayer.extras import missing


def main() -> Any:
    """As :func:`twolayer.cli.main`, with the arguments of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a table's "…" is not worth a run where the output is no Unicode
            stream.reconfigure(errors="replace")
    collecting = gc.isenabled()
    gc.disable()  # what comes is to stay, and looking through it again and again was a tenth of the start
    try:
        from twolayer import cli
    except ModuleNotFoundError as error:
        sys.exit(f"twolayer: {missing(error)}")
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
    return cli.main()


if __name__ == "__main__":
    sys.argv[0] = "twolayer"  # which the help shows
    sys.exit(main())
