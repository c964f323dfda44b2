"""Where a WebUI keeps models."""

import os

models_path = os.environ.get("STAND_IN_MODELS", "")
