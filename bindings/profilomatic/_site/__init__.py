"""The folder that `profilomatic auto` prints, for PYTHONPATH: its sitecustomize runs when an interpreter starts."""
