"""The folder that `profilomatic auto` prints, for PYTHONPATH: its sitecustomize runs when an interpreter starts."""

import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
