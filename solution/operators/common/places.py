"""Where the operators lie: in a checkout of the kit, or installed without one (`pip install .`)."""

from pathlib import Path

_ABOVE = Path(__file__).resolve().parents[3]
CHECKOUT = _ABOVE if (_ABOVE / "solution" / "process.py").is_file() else None
