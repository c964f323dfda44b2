"""`python -m diffusion_perception.trainer` is the command line."""

import sys

from .cli import main

sys.exit(main())
