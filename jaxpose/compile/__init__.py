"""Compiles a training or prediction step for a TPU slice or for GPUs that are not here, and reads the program.

    report = compile.for_topology(task, tx, topology="v5e:4x4", batch_size=1024)
    report = compile.for_topology(task, tx, topology="h100:8", batch_size=512)
    print(report)

The TPU's own compiler is the package libtpu, the GPU's are JAX's CUDA plugin; both run on any Linux x86-64 machine
(``pip install "jaxpose[tpu-compile]"``, ``pip install "jaxpose[gpu-compile]"``). They compile the same step that `jaxpose.train`
runs, from shapes alone: nothing is computed and no data are read.

What the numbers are. Bytes, memory, layouts, kernels and collectives are facts of the program. FLOPs are XLA's count. Cycles, on
TPUs only, are the compiler's own estimate, which stands at every fusion: a cost model and no measurement, made to choose between two
forms of a program, and to be used so. It leaves out collectives and asynchronous copies between memories, and the time that a core
waits for its memory where the model takes the two to overlap. All numbers are per device, which is a chip; a v4 chip counts as two.

    chips       the slices and GPUs: their memory and clock, the devices that programs are compiled for
    steps       the steps: what is compiled, and the largest batch that fits
    program     the reader of the compiled program's text
    report      the numbers, and how they are printed
"""

from jaxpose.compile.chips import topology_devices
from jaxpose.compile.program import ITEM_BYTES, module_of, read_program
from jaxpose.compile.report import Collective, Memory, Op, Report
from jaxpose.compile.steps import DoesNotFit, example_batch, for_topology, largest_batch

__all__ = [
    "ITEM_BYTES",
    "Collective",
    "DoesNotFit",
    "Memory",
    "Op",
    "Report",
    "example_batch",
    "for_topology",
    "largest_batch",
    "module_of",
    "read_program",
    "topology_devices",
]
