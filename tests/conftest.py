import os

# Before anything imports triton: kernels then run on CPU tensors, interpreted. TRITON_INTERPRET=0 leaves them compiled.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything imports torch: the networks of the tests are so small that threads only wait for each other, and where other
# processes share the cores they wait a hundred times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")
