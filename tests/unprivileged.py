"""Runs a command line as a user for whom file modes count: python tests/unprivileged.py WORDS…

For root they do not count, and another user may not reach the interpreter at all (a
version manager below /root). So root gives up the powers that make the difference.
"""

import ctypes
import os
import sys

_DROP_FROM_BOUNDING_SET = 24
_POWERS_OVER_FILES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER

if __name__ == "__main__":
    if os.geteuid() == 0:
        for power in _POWERS_OVER_FILES:
            if ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, power, 0, 0, 0) != 0:
                raise SystemExit("root's powers cannot be dropped here")
    os.execv(sys.argv[1], sys.argv[1:])
