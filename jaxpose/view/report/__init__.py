"""`jaxpose view report`: an evaluation as one HTML file that fetches nothing: numbers, curves, calibration, errors, cases.

``document`` puts it together from the parts in ``sections`` and ``cards``; ``charts`` draws SVG; ``page`` is the frame with
``report.css`` and ``report.js``. All names come from other people's files (images, joints, settings) and are escaped; the page's
Content-Security-Policy allows pictures within it, its own style, and the one script whose hash it states. NumPy, Pillow
and pycocotools; no JAX, no matplotlib.
"""

from jaxpose.files import read_events
from jaxpose.view.report.document import of_run, report, write

__all__ = ["of_run", "read_events", "report", "write"]
