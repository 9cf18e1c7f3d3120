"""`profilomatic auto`: prints the folder that has to be on PYTHONPATH for PROFILOMATIC_AUTO=1.

    export PYTHONPATH="$(profilomatic auto)${PYTHONPATH:+:$PYTHONPATH}"
"""

import argparse

from ._site import FOLDER


def main(argv=None):
    parser = argparse.ArgumentParser(prog="profilomatic auto", description=__doc__.partition("\n")[0].partition(": ")[2])
    parser.parse_args(argv)
    print(FOLDER)
    return 0
