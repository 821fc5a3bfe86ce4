"""`jaxpose view report`: an evaluation as one self-contained HTML file: numbers, curves, calibration, errors, cases.

``document`` combines the parts in ``sections`` and ``cards``; ``charts`` draws SVG; ``page`` is the frame with
``report.css`` and ``report.js``. All names come from other people's files (images, joints, settings) and are escaped; the page's
Content-Security-Policy allows only embedded pictures, its own style, and the one script whose hash it states. It needs NumPy,
Pillow and pycocotools, but neither JAX nor matplotlib.
"""

from jaxpose.files import read_events
from jaxpose.view.report.document import of_run, report, write

__all__ = ["of_run", "read_events", "report", "write"]
