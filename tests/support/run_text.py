"""``python -m tests.support.run_text TEXT`` runs a few lines of Python."""

import sys

if __name__ == "__main__":
    exec(sys.argv[1])
