"""The project's own settings, not the reader's, decide what tests and notebooks show: no start-up file of Python, IPython,
Jupyter or Matplotlib is read, and nothing is written in the reader's home."""

import os
import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).parents[1] / "_build/settings"
OWN = {
    "IPYTHONDIR": str(PLACE / "ipython"),
    "JUPYTER_CONFIG_DIR": str(PLACE / "jupyter"),
    "JUPYTER_DATA_DIR": str(PLACE / "jupyter/data"),
    "JUPYTER_RUNTIME_DIR": str(PLACE / "jupyter/runtime"),
    "JUPYTER_PLATFORM_DIRS": "0",
    "MPLCONFIGDIR": str(PLACE / "matplotlib"),
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "TQDM_DISABLE": "1",  # a progress bar is no output to compare
}
NOT_OURS = (
    "MPLBACKEND",
    "MATPLOTLIBRC",
    "PYTHONSTARTUP",
    "PYTHONWARNINGS",
    "PYTHONDONTWRITEBYTECODE",  # each kernel would take four seconds to load PyTorch, not one
    "JUPYTER_PATH",
    "JUPYTER_CONFIG_PATH",
)


def apply() -> None:
    """Set them in this process, from which kernels inherit them."""
    os.environ.update(OWN)
    for name in NOT_OURS:
        os.environ.pop(name, None)
    if not any(PLACE.glob("matplotlib/fontlist*")):  # or the first notebook says that it looks for fonts
        subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True, stderr=subprocess.DEVNULL)
