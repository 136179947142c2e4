"""The main job: a real picture analysed by real agents, one of them killed on the way."""

import os

# The wheel of onnxruntime reports its use to its maker unless it is told not to before it is imported. This runs before
# any module of the demo does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
