"""Scans of the retina (optical coherence tomography) with labelled boundaries, from files to the batches of a run.

`scan` says what a scan is, `duke` reads the Duke DME data, `surfaces` finds the retina in a single scan, `flatten` prepares
scans for a net, `feed` makes batches. `jaxpose.data.synthetic.retina` draws scans whose label noise is known.
"""

from jaxpose.data.scans.flatten import Prepared, prepare
from jaxpose.data.scans.scan import Scan

__all__ = ["Prepared", "Scan", "prepare"]
